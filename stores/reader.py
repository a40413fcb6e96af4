"""Reading a store: its manifest, tables and rows, without torch."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from .arrays import ARRAY_NAMES, GROUP_NAMES, ArrayInfo
from .codecs import LogitCodec
from .errors import CorruptStoreError, MissingArrayError, RefusedError, UsageError, unknown
from .files import FileRecord
from .join import JoinedDataset, MapDataset, match_rows
from .layout import CLASSES, receipt_file, samples_file
from .manifest import Manifest, Receipt
from .payload.layout import PayloadLayout, Rows, payload_layout
from .payload.mapping import MAX_MAPPINGS
from .read_ahead import read_ahead
from .remote.location import is_url
from .streaming import BatchSampler
from .tables import CLASSES_SCHEMA, SAMPLES_SCHEMA, read_parquet

BatchT = TypeVar("BatchT")


def open_store(
    path: str | PathLike[str],
    *,
    allow_unfinished: bool = False,
    verify: bool = False,
    cache: str | PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> "Store":
    """Open a store; this reads its manifest and nothing else.

    Args:
        path: the folder of the store, or its address: s3://, gs://, az:// or https://.
        allow_unfinished: also open a store whose extraction is not finished (to look at it, not to train from it).
        verify: compare every chunk with its checksum before its first row is read; a remote store's always are.
        cache: the folder in which the chunks of remote stores are kept; by default the user's cache folder.
        cache_bytes: how much it may hold; by default 20 GB.

    Raises:
        CorruptStoreError: there is no store, or its manifest is damaged.
        RefusedError: the store is unfinished, or of a newer format version.
        MissingExtraError: it is remote, and obstore is not installed.
        KdpipeError: the server cannot be reached, or does not let us read.
    """
    if is_url(path):
        from .remote.store import open_remote  # which needs this module

        return open_remote(str(path), cache=cache, cache_bytes=cache_bytes)
    root = Path(path)
    manifest = Manifest.read(root)
    if manifest.state != "complete" and not allow_unfinished:
        raise RefusedError(f"{root} is not finished. Run the same {manifest.made_by} again to complete it.")
    return Store(root, manifest, verify=verify)


class Store:
    """A logit store, open for reading. Safe to use in forked and spawned DataLoader workers.

    Attributes:
        path: the folder of the store; of a remote store, that of what has been fetched of it.
        manifest: what the store is.
        remote: whether chunks have to be fetched.
    """

    remote = False

    def __init__(self, path: Path, manifest: Manifest, *, verify: bool = False) -> None:
        self.path = path
        self.manifest = manifest
        self._mapped: dict[tuple[str, int], Rows] = {}
        self._verify = verify
        self._verified: set[str] = set()

    def __reduce__(self) -> tuple[object, ...]:
        return Store._unpickled, (self.path, self.manifest, self._verify)

    @classmethod
    def _unpickled(cls, path: Path, manifest: Manifest, verify: bool) -> "Store":
        return cls(path, manifest, verify=verify)

    def __len__(self) -> int:
        return self.manifest.num_samples

    def __str__(self) -> str:
        """Where the store lies."""
        return str(self.path)

    def __repr__(self) -> str:
        """Where it lies, and how large it is."""
        size = f"{len(self):,} samples x {self.manifest.num_classes:,} classes"
        return f"<{type(self).__name__} {self}: {size}, {self.manifest.num_views} view(s), {self.manifest.state}>"

    @cached_property
    def classes(self) -> pa.Table:
        """One row per class: class_id, name, count, group."""
        return read_parquet(self.path / CLASSES, CLASSES_SCHEMA, self.manifest.num_classes)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in class order."""
        return self.classes["name"].to_pylist()

    @property
    def class_groups(self) -> np.ndarray:
        """(C,) int64: 0 head, 1 medium, 2 tail."""
        groups = self.classes["group"].to_pylist()
        if strange := set(groups) - set(GROUP_NAMES):
            raise CorruptStoreError(f"{self.path / CLASSES} has the group '{min(strange)}'. Restore it.")
        return np.array([GROUP_NAMES.index(group) for group in groups], np.int64)

    def samples(self, columns: Sequence[str] | None = None, *, blocks: Sequence[int] | None = None) -> pa.Table:
        """One row per sample, in row order: row, sample_id, label, group and what the teacher said of it.

        Args:
            columns: read only these.
            blocks: read only these row blocks: what is not held all at once is never larger than memory.
        """
        grid = self.manifest.grid
        tables = [
            read_parquet(self.path / samples_file(block), SAMPLES_SCHEMA, len(grid.rows(block)), columns)
            for block in (range(grid.chunks_per_view) if blocks is None else blocks)
        ]
        return pa.concat_tables(tables)

    def file(self, record: FileRecord) -> Path:
        """Where a file of the store lies on this machine; a remote store's is fetched, and proved, first.

        Raises:
            CorruptStoreError: it is missing, or not of the recorded size.
        """
        record.check_size(self.path)
        return self.path / record.path

    def receipt(self, chunk: int) -> Receipt:
        """The receipt of a chunk."""
        return Receipt.read(self.path, self.manifest.grid, chunk)

    def has_receipt(self, chunk: int) -> bool:
        """Whether a chunk has been written."""
        return (self.path / receipt_file(chunk)).exists()

    def read(
        self,
        rows: np.ndarray | Sequence[int],
        *,
        arrays: Sequence[str] = ("logits",),
        view: int = 0,
        out: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Gather rows.

        Args:
            rows: (B,) store rows, any order, repeats allowed.
            arrays: any of "logits" (float16 or float32; decoded where the store has them in another form), "ranks"
                (class ids, teacher's best first), and the arrays that the store's codec writes, as they are stored.
            view: which view.
            out: kept (B, width) buffers to fill, by array; new ones are made for those not given.

        Returns:
            The (B, width) arrays by name, in the stored dtype; decoded logits are float32.

        Raises:
            UsageError: a row or view out of range, or a buffer of another shape or dtype.
            MissingArrayError: the store does not carry an array.
            CorruptStoreError: a chunk file is missing or truncated.
        """
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise UsageError(f"Rows must be whole numbers, not {rows.dtype}; of a mask, take np.flatnonzero.")
        rows = rows.astype(np.int64, copy=False)
        if rows.ndim != 1 or (rows.size and (rows.min() < 0 or rows.max() >= len(self))):
            raise UsageError(f"Rows must be a list of numbers from 0 to {len(self) - 1}, for {self}.")
        result = {}
        for name in _names(arrays):
            info = self.require(name)
            shape = (len(rows), info.width)
            buffer = out[name] if out is not None and name in out else np.empty(shape, info.dtype)
            if buffer.shape != shape or buffer.dtype != info.dtype or not buffer.flags.writeable:
                raise UsageError(f"The buffer for '{name}' must be {info.dtype} of shape {shape}, and writeable.")
            self._source(name, view)(rows, buffer)
            result[name] = buffer
        return result

    def batches(
        self,
        batch_size: int,
        *,
        arrays: Sequence[str] = ("logits",),
        view: int = 0,
        order: str = "random",
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Stream one epoch of the whole store, reading ahead in a thread.

        Args:
            batch_size: B, rows of a batch.
            arrays: as in :meth:`read`.
            view: which view.
            order: "random", "chunks" (whole chunks from a cold disk, mixed 16 at a time) or "sequential".
            seed: of the order.
            epoch: number of the epoch, from 0.
            drop_last: leave out the last batch where it would be smaller.

        Yields:
            ``row`` (B,) int64 and the (B, width) arrays by name, in kept buffers: the next batch overwrites them.

        Raises:
            UsageError, MissingArrayError, CorruptStoreError: as :meth:`read`.
        """
        sampler = BatchSampler(
            range(len(self)), self.manifest.chunk_rows, batch_size, order=order, seed=seed, drop_last=drop_last
        )
        sampler.set_epoch(epoch)
        infos = [self.require(name) for name in _names(arrays)]
        buffers = {info.name: np.empty((batch_size, info.width), info.dtype) for info in infos}
        sources = {info.name: self._source(info.name, view) for info in infos}
        for rows in self.read_ahead(sampler.arrays(), sampler, arrays=arrays, view=view):
            batch = buffers if len(rows) == batch_size else {name: kept[: len(rows)] for name, kept in buffers.items()}
            for name, copy in sources.items():
                copy(rows, batch[name])
            yield {"row": rows, **batch}

    def read_ahead(
        self,
        batches: Iterable[BatchT],
        sampler: BatchSampler,
        *,
        arrays: Sequence[str],
        view: int = 0,
        first_batch: int = 0,
    ) -> Iterator[BatchT]:
        """Give the batches, while a thread brings the chunks they will need into memory.

        Args:
            batches: one for each of the sampler's from ``first_batch`` on, in that order.
            sampler: what they read.
            arrays: which arrays they read.
            view: which view.
            first_batch: where an epoch is gone on with.
        """
        stored = [info for name in _names(arrays) for info in self.stored(name)]
        mapped = [self._rows(info, view) for info in stored]
        row_bytes = sum(info.row_bytes for info in stored)

        def bring(block: int) -> None:
            for rows in mapped:
                rows.bring(block)

        # what does not fit into memory would only push out what is needed first
        fitting = (window for window in sampler.windows() if 2 * window[0] * row_bytes <= physical_memory())
        return read_ahead(batches, sampler.batch_size, fitting, bring, skipped=first_batch * sampler.batch_size)

    def release(self, view: int) -> None:
        """Let go of what is kept open of a view, so that memory does not grow with the views that are read."""
        for key in [key for key in self._mapped if key[1] == view]:
            del self._mapped[key]

    def require(self, name: str) -> ArrayInfo:
        """The description of an array as :meth:`read` gives it.

        Raises:
            UsageError: there is no array of that name in any store.
            MissingArrayError: the store does not carry it.
        """
        first = self.stored(name)[0]
        return (
            first if first.name == name else ArrayInfo(name="logits", dtype="float32", width=self.manifest.num_classes)
        )

    def stored(self, name: str) -> tuple[ArrayInfo, ...]:
        """The stored arrays that an array is read from: itself, or those that logits are decoded from.

        Raises:
            UsageError, MissingArrayError: as :meth:`require`.
        """
        if name not in ARRAY_NAMES:
            raise unknown("array", name, ARRAY_NAMES)
        if found := self.manifest.components(name):
            return found
        raise MissingArrayError(f"{self} has no '{name}', only {self.manifest.array_names}. {self._cure(name)}")

    @cached_property
    def layout(self) -> PayloadLayout:
        """Where the payload lies and how it is read."""
        return payload_layout(self.manifest)

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that are stored once, for all rows: a factorised store's classifier."""
        files = {self.layout.constant_file(constant) for constant in self.manifest.constants}
        for record in self.manifest.files if self._verify else ():
            if record.path in files and not record.is_met(self.path):
                raise CorruptStoreError(f"{self.path / record.path} is not what the manifest says. Restore it.")
        return {constant.name: self.layout.read_constant(self.path, constant) for constant in self.manifest.constants}

    def join(self, dataset: MapDataset, sample_ids: Sequence[str] | None = None) -> JoinedDataset:
        """Join a map-style data set to the store by sample id.

        Args:
            dataset: gives (input, label, ...) for a position.
            sample_ids: the id of every position; by default ``dataset.sample_ids``.

        Returns:
            The samples both have, in store order; each item ends with its store row, to be given to :meth:`read`.

        Raises:
            UsageError: the data set names no ids, not as many as it has items, or one twice.
            MismatchError: no sample is in both.
        """
        ids = getattr(dataset, "sample_ids", None) if sample_ids is None else sample_ids
        if ids is None:
            raise UsageError("The data set has no `sample_ids`. Pass them: store.join(dataset, sample_ids=...).")
        if len(ids) != len(dataset):
            raise UsageError(f"There are {len(ids)} sample ids for a data set of {len(dataset)}. Give one for each.")
        rows, positions = match_rows(self.samples(["sample_id"])["sample_id"], ids, str(self))
        return JoinedDataset(dataset, positions, rows, self.manifest.chunk_rows)

    def _cure(self, name: str) -> str:
        """How to come to an array that this store has not."""
        codec = self.manifest.logit_codec
        if name == "logits" and self.manifest.array("top_logits") is not None:
            return f"Its codec {codec} keeps the best classes only. For all logits, extract again with --codec float16."
        if name in ("logits", "ranks"):
            return "Extract again with --write logits,ranks."
        return f"That array is written by another codec than {codec}."

    def _source(self, name: str, view: int) -> Callable[[np.ndarray, np.ndarray], None]:
        """How the rows of an array are copied: a function of (rows, out), looked up once for many batches."""
        stored, codec = self.stored(name), self.manifest.logit_codec
        if stored[0].name == name:
            if not self._verify:
                return self._rows(stored[0], view).gather
            return lambda rows, out: self._gather_stored(stored[0], view, rows, out)
        if not isinstance(codec, LogitCodec):
            raise MissingArrayError(f"{self} has no '{name}'. {self._cure(name)}")

        def decode(rows: np.ndarray, out: np.ndarray) -> None:
            parts = {part.name: np.empty((len(rows), part.width), part.dtype) for part in stored}
            for part in stored:
                self._gather_stored(part, view, rows, parts[part.name])
            out[...] = codec.decode({**parts, **self.constants})

        return decode

    def _gather_stored(self, info: ArrayInfo, view: int, rows: np.ndarray, out: np.ndarray) -> None:
        mapped = self._rows(info, view)
        if self._verify:
            self._check(info, view, rows)
        mapped.gather(rows, out)

    def _rows(self, info: ArrayInfo, view: int) -> Rows:
        key = (info.name, view)
        if key not in self._mapped:
            if not 0 <= view < self.manifest.num_views:
                raise UsageError(f"View {view} is not in {self}: it has {self.manifest.num_views}, from 0.")
            self._forget(self.manifest.grid.chunks_per_view)
            self._mapped[key] = self._open_rows(info, view)
        return self._mapped[key]

    def _open_rows(self, info: ArrayInfo, view: int) -> Rows:
        grid = self.manifest.grid
        names = [self.layout.array_file(info.name, view, block) for block in range(grid.chunks_per_view)]
        return self.layout.rows([self.path / name for name in names], info)

    def _check(self, info: ArrayInfo, view: int, rows: np.ndarray) -> None:
        """Compare the chunks of these rows with their checksums, each once."""
        grid = self.manifest.grid
        for block in np.unique(rows // grid.chunk_rows):
            name = self.layout.array_file(info.name, view, int(block))
            if name in self._verified:
                continue
            records = {record.path: record for record in self.receipt(view * grid.chunks_per_view + int(block)).files}
            if name not in records or not records[name].is_met(self.path):
                raise CorruptStoreError(
                    f"{self.path / name} is not what its receipt says. "
                    f"Look with: kdpipe store verify --deep {self.path}, then: kdpipe store repair {self.path}."
                )
            self._verified.add(name)

    def _forget(self, needed: int) -> None:
        """Let go of the views mapped first, so that a store of hundreds of views stays below the system's limit."""
        while self._mapped and needed + sum(rows.mappings for rows in self._mapped.values()) > MAX_MAPPINGS:
            del self._mapped[next(iter(self._mapped))]


def physical_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _names(arrays: Sequence[str] | str) -> Sequence[str]:
    return (arrays,) if isinstance(arrays, str) else arrays
