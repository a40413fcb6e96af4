"""Converting a store to another payload format or codec, and saying what that changed: everything is read back.

Shapes: n rows of a chunk, C classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike

import numpy as np

from ..codecs import Codec, Int8, LogitCodec, TopK
from ..codecs.fidelity import Fidelity, FidelityTally
from ..errors import CorruptStoreError
from ..manifest import Manifest, PayloadFormat
from ..reader import Store, open_store
from .recode import recode

# rows whose distributions are compared: sorting and exponentials of all would take longer than the conversion
_MEASURED_ROWS = 16_384
# rows are compared so many numbers at a time, so that float64 copies stay small
_SLICE_ELEMENTS = 2**20


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A store that was converted, compared with what it was made from.

    Attributes:
        manifest: of the new store.
        identical: the arrays that are the same in both, byte for byte.
        exact: whether nothing that a reader gets is changed: logits and all other arrays.
        largest_error: of the logits, over all rows; of top-k, of the kept ones. None where logits are not compared.
        fidelity: over evenly spread rows, where logits changed.
        remarks: what a user should know of the result.
    """

    manifest: Manifest
    identical: tuple[str, ...]
    exact: bool
    largest_error: float | None
    fidelity: Fidelity | None
    remarks: tuple[str, ...]


def convert(
    path: str | PathLike[str],
    out: str | PathLike[str],
    *,
    payload_format: PayloadFormat | None = None,
    codec: str | None = None,
    chunk_rows: int | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Conversion:
    """Write a store in another format or codec, then read both and compare; run again, it goes on.

    Args:
        path: a finished store, local or remote.
        out: the folder of the new store.
        payload_format: of the new store; by default the store's.
        codec: of the new store; by default the store's.
        chunk_rows: as of :func:`.recode.recode`.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Raises:
        UsageError, MissingArrayError, RefusedError, BadLogitsError: as of :func:`.recode.recode`.
        CorruptStoreError: a file of the store is not what was written; or what was read back is not what was meant.
    """
    manifest = recode(path, out, codec, payload_format=payload_format, chunk_rows=chunk_rows, on_progress=on_progress)
    old, new = open_store(path, verify=True), open_store(out, verify=True)
    same = [array.name for array in manifest.arrays if old.manifest.array(array.name) == array]
    changed = set(manifest.logit_arrays) != set(old.manifest.logit_arrays)
    comparison = _Comparison(old, new, same, measures=changed)
    for view, rows in _slices(manifest):
        comparison.compare(view, rows)
    identical = tuple(name for name in same if name not in comparison.differing)
    if not changed and comparison.differing:
        raise CorruptStoreError(
            f"{out} holds other '{sorted(comparison.differing)[0]}' than {path}. Look with: kdpipe store verify --deep."
        )
    return Conversion(
        manifest=manifest,
        identical=identical,
        exact=not comparison.differing and comparison.exact,
        largest_error=comparison.largest_error if changed else None,
        fidelity=comparison.fidelity,
        remarks=tuple(_remarks(old.manifest, manifest, comparison)),
    )


class _Comparison:
    """Two stores with the same rows, compared slice by slice."""

    def __init__(self, old: Store, new: Store, same: list[str], *, measures: bool) -> None:
        self._old, self._new, self._same, self._measures = old, new, same, measures
        codec = new.manifest.logit_codec
        self._decodes = isinstance(codec, LogitCodec)
        self._logits = ("logits",) if self._decodes else ("top_classes", "top_logits")
        self._components = tuple(array.name for array in new.manifest.logit_arrays)
        self._tally = FidelityTally(codec, new.class_groups, constants=new.constants, temperatures=_temperatures(codec))
        # each of the rows so many numbers apart
        self._step = max(1, old.manifest.num_views * len(old) // _MEASURED_ROWS)
        self.differing: set[str] = set()
        self.largest_error = 0.0
        self.exact = self._decodes or not measures

    @property
    def fidelity(self) -> Fidelity | None:
        """What changed, if logits did."""
        return None if self.exact else self._tally.result()

    def compare(self, view: int, rows: np.ndarray) -> None:
        """Compare some rows of a view."""
        found, expected = (store.read(rows, arrays=self._same, view=view) for store in (self._new, self._old))
        self.differing |= {name for name in self._same if found[name].tobytes() != expected[name].tobytes()}
        if not self._measures:
            return
        true = self._old.read(rows, view=view)["logits"].astype(np.float32, copy=False)
        stored = self._new.read(rows, arrays=self._logits, view=view)
        if self._decodes:
            error = np.abs(stored["logits"].astype(np.float64) - true)
        else:
            kept = np.take_along_axis(true, stored["top_classes"].astype(np.int64), axis=1)
            error = np.abs(stored["top_logits"].astype(np.float64) - kept)
        largest = float(error.max())
        self.largest_error = max(self.largest_error, largest)
        self.exact &= largest == 0
        measured = rows[(view * len(self._old) + rows) % self._step == 0]
        if len(measured):
            parts = self._new.read(measured, arrays=self._components, view=view)
            self._tally.compare(true[measured - rows[0]], parts)


def _slices(manifest: Manifest) -> Iterator[tuple[int, np.ndarray]]:
    """All rows, in runs that lie in one chunk: (view, rows)."""
    grid, step = manifest.grid, max(1, _SLICE_ELEMENTS // manifest.num_classes)
    for chunk in range(grid.num_chunks):
        rows = grid.rows(chunk)
        for start in range(rows.start, rows.stop, step):
            yield grid.view(chunk), np.arange(start, min(start + step, rows.stop))


def _temperatures(codec: Codec) -> tuple[float, ...]:
    """Where distributions are compared: of top-k, what it stores."""
    return codec.temperatures if isinstance(codec, TopK) else (1.0, 4.0)


def _remarks(old: Manifest, new: Manifest, comparison: _Comparison) -> Iterator[str]:
    source = old.logit_codec
    if isinstance(source, Int8) and not isinstance(new.logit_codec, Int8):
        yield (
            "The store's logits were int8 and stay as approximate as they were: the errors here are of this "
            "conversion alone, and come on top."
        )
    if isinstance(new.logit_codec, TopK) and not isinstance(source, TopK):
        yield "Top-k keeps the best classes alone: the other logits cannot be brought back from the new store."
    if "ranks" in comparison.differing:
        yield "Ranks follow the decoded logits, whose order is not the features' to the last place."
