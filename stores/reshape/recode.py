"""A store in another codec or payload format: for shipping, for other tools, or to be mapped again."""

from collections.abc import Callable
from dataclasses import replace
from os import PathLike

import numpy as np

from ..codecs import Codec, Factorised, Float16, Float32, parse_codec
from ..derive import check_apart, derive, derived_manifest, open_source, parent_of
from ..errors import UsageError
from ..manifest import Manifest, PayloadFormat
from ..reader import Store
from ..writer import StoreWriter
from .class_map import ClassMap
from .columns import MappedColumns
from .gather import Gathering, all_rows, rows_of_chunk, with_column


def recode(
    path: str | PathLike[str],
    out: str | PathLike[str],
    codec: str | None = None,
    *,
    payload_format: PayloadFormat | None = None,
    chunk_rows: int | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Write a store with its logits in another codec, or its arrays in other files; run again, it goes on.

    Logits are decoded and encoded again, so that the errors of both codecs add up. Ranks stay what they were; only
    those of a factorised store follow its decoded logits, whose order need not be the teacher's to the last place. The
    teacher's confidence and entropy stay.

    Args:
        path: a finished store, local or remote.
        out: the folder of the new store.
        codec: as :func:`~kdpipe.stores.codecs.parse_codec` reads it; of a store of ranks alone only ``+zstd`` counts.
            By default the store's.
        payload_format: of the new store; by default the store's.
        chunk_rows: rows of a chunk; by default the store's, where its codec stays, else as an extraction chooses them.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store.

    Raises:
        UsageError: the codec cannot be read or makes no sense for so many classes; or the store is so already.
        MissingArrayError: the store has not all logits, and another codec than its own was asked for.
        RefusedError: the store is not finished; features were asked for that it has not.
        BadLogitsError: the codec cannot hold a logit.
        CorruptStoreError: a file of the store is not what was written.
    """
    store = open_source(path)
    check_apart(out, [store])
    old, old_format = store.manifest.logit_codec, store.manifest.payload_format
    new_format, wanted, changes = payload_format or old_format, old, []
    if codec is not None and (new_format == old_format or _read(store.manifest, codec) != old):
        wanted = target_codec(store.manifest, codec, str(store))
        changes.append(f"codec {wanted} in the place of {old}")
    if new_format != old_format:
        changes.append(f"format {new_format} in the place of {old_format}")
    if not changes:
        raise UsageError(f"{store} has the format {old_format} already. Give another --format or --codec.")
    if replace(wanted, compressed=old.compressed) == old:
        gathering, arrays = Gathering([all_rows(store)]), store.manifest.arrays
        chunk_rows = chunk_rows or (store.manifest.chunk_rows if wanted == old else None)
    else:
        columns = MappedColumns(store.manifest, store.constants, ClassMap.identity(store.class_names), str(wanted))
        gathering, arrays = _Recoded(store, columns), columns.arrays
    manifest = derived_manifest(
        store.manifest,
        [parent_of(store.manifest, "; ".join(changes))],
        arrays=arrays,
        codec=None if wanted in (Float16(), Float32()) else str(wanted),
        payload_format=new_format,
        chunk_rows=rows_of_chunk(chunk_rows, len(store), arrays),
    )
    return derive(
        out, manifest, store.classes, gathering.write_chunk, constants=gathering.constants, on_progress=on_progress
    )


def target_codec(manifest: Manifest, text: str, place: str) -> Codec:
    """The codec that a store is to have, if it can be made.

    Args:
        manifest: of the store.
        text: the codec as it was asked for.
        place: how to name the store in an error.

    Raises:
        UsageError, MissingArrayError, RefusedError: as of :func:`recode`.
    """
    codec, old = _read(manifest, text), manifest.logit_codec
    if codec == old:
        raise UsageError(f"{place} has the codec {old} already.")
    if replace(codec, compressed=old.compressed) != old:
        MappedColumns(manifest, {}, ClassMap.identity([str(c) for c in range(manifest.num_classes)]), str(codec))
    return codec


def _read(manifest: Manifest, text: str) -> Codec:
    """A codec as it was asked for, with what the store decides."""
    codec, old = parse_codec(text), manifest.logit_codec
    if not manifest.logit_arrays:  # nothing is left to be said but whether ranks are compressed
        return Float16(compressed=codec.compressed)
    if isinstance(codec, Factorised) and isinstance(old, Factorised) and not codec.num_features:
        return replace(old, compressed=codec.compressed)
    return codec


class _Recoded(Gathering):
    """All rows of a store, their logits in another codec."""

    def __init__(self, store: Store, columns: MappedColumns) -> None:
        super().__init__([all_rows(store)])
        self._columns, self._groups = columns, store.class_groups

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that are stored once, for all rows."""
        return self._columns.constants

    def write_chunk(self, writer: StoreWriter, chunk: int) -> None:
        """Write a chunk of the new store."""
        grid = writer.manifest.grid
        view, rows = grid.view(chunk), grid.rows(chunk)
        arrays, says = self._columns.apply(self.arrays(view, rows), self._groups)
        samples = None
        if view == 0:
            samples, top1 = self.samples.slice(rows.start, len(rows)), says["teacher_top1"]
            samples = with_column(samples, "teacher_top1", top1)
            samples = with_column(samples, "teacher_correct", top1 == samples["label"].to_numpy())
        writer.write_chunk(chunk, arrays, samples, self.inputs(view, rows))
