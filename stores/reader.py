"""Reading a store: its manifest, tables and rows, without torch."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from .errors import CorruptStoreError, MissingArrayError, RefusedError, UsageError, unknown
from .join import JoinedDataset, MapDataset, match_rows
from .layout import CLASSES, array_file, receipt_file, samples_file
from .manifest import ARRAY_NAMES, GROUP_NAMES, ArrayInfo, Manifest, Receipt
from .mapping import MAX_MAPPINGS, MappedRows
from .read_ahead import read_ahead
from .streaming import BatchSampler
from .tables import CLASSES_SCHEMA, SAMPLES_SCHEMA, read_parquet

BatchT = TypeVar("BatchT")


def open_store(path: str | PathLike[str], *, allow_unfinished: bool = False, verify: bool = False) -> "Store":
    """Open a store; this reads its manifest and nothing else.

    Args:
        path: the folder of the store.
        allow_unfinished: also open a store whose extraction is not finished (to look at it, not to train from it).
        verify: compare every chunk with its checksum before its first row is read.

    Raises:
        CorruptStoreError: there is no store, or its manifest is damaged.
        RefusedError: the store is unfinished, or of a newer format version.
    """
    root = Path(path)
    manifest = Manifest.read(root)
    if manifest.state != "complete" and not allow_unfinished:
        raise RefusedError(f"{root} is not finished. Run the same `kdpipe extract` again to complete it.")
    return Store(root, manifest, verify=verify)


class Store:
    """A logit store, open for reading. Safe to use in forked and spawned DataLoader workers.

    Attributes:
        path: the folder of the store.
        manifest: what the store is.
    """

    def __init__(self, path: Path, manifest: Manifest, *, verify: bool = False) -> None:
        self.path = path
        self.manifest = manifest
        self._mapped: dict[tuple[str, int], MappedRows] = {}
        self._verify = verify
        self._verified: set[str] = set()

    def __reduce__(self) -> tuple[object, ...]:
        return Store._unpickled, (self.path, self.manifest, self._verify)

    @classmethod
    def _unpickled(cls, path: Path, manifest: Manifest, verify: bool) -> "Store":
        return cls(path, manifest, verify=verify)

    def __len__(self) -> int:
        return self.manifest.num_samples

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

    def samples(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per sample, in row order: row, sample_id, label, group and what the teacher said of it.

        Args:
            columns: read only these.
        """
        grid = self.manifest.grid
        tables = [
            read_parquet(self.path / samples_file(block), SAMPLES_SCHEMA, len(grid.rows(block)), columns)
            for block in range(grid.chunks_per_view)
        ]
        return pa.concat_tables(tables)

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
            arrays: any of "logits" (float16 or float32) and "ranks" (class ids, teacher's best first).
            view: which view.
            out: kept (B, width) buffers to fill, by array; new ones are made for those not given.

        Returns:
            The (B, width) arrays by name, in the stored dtype.

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
            raise UsageError(f"Rows must be a list of numbers from 0 to {len(self) - 1}, for {self.path}.")
        result = {}
        for name in _names(arrays):
            info = self.require(name)
            shape = (len(rows), info.width)
            buffer = out[name] if out is not None and name in out else np.empty(shape, info.dtype)
            if buffer.shape != shape or buffer.dtype != info.dtype or not buffer.flags.writeable:
                raise UsageError(f"The buffer for '{name}' must be {info.dtype} of shape {shape}, and writeable.")
            self._gather(info, view, rows, buffer)
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
        for rows in self.read_ahead(sampler.arrays(), sampler, arrays=arrays, view=view):
            batch = buffers if len(rows) == batch_size else {name: kept[: len(rows)] for name, kept in buffers.items()}
            for info in infos:
                self._gather(info, view, rows, batch[info.name])
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
        mapped = [self._rows(self.require(name), view) for name in _names(arrays)]
        row_bytes = sum(self.require(name).row_bytes for name in _names(arrays))

        def bring(block: int) -> None:
            for rows in mapped:
                rows.bring(block)

        # what does not fit into memory would only push out what is needed first
        fitting = (window for window in sampler.windows() if 2 * window[0] * row_bytes <= physical_memory())
        return read_ahead(batches, sampler.batch_size, fitting, bring, skipped=first_batch * sampler.batch_size)

    def require(self, name: str) -> ArrayInfo:
        """The description of an array.

        Raises:
            UsageError: there is no array of that name in any store.
            MissingArrayError: the store does not carry it.
        """
        info = self.manifest.array(name)
        if name not in ARRAY_NAMES:
            raise unknown("array", name, ARRAY_NAMES)
        if info is None:
            has = ", ".join(array.name for array in self.manifest.arrays)
            raise MissingArrayError(
                f"{self.path} has no '{name}', only {has}. Extract again with --write {has},{name}."
            )
        return info

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
        rows, positions = match_rows(self.samples(["sample_id"])["sample_id"], ids, str(self.path))
        return JoinedDataset(dataset, positions, rows, self.manifest.chunk_rows)

    def _gather(self, info: ArrayInfo, view: int, rows: np.ndarray, out: np.ndarray) -> None:
        mapped = self._rows(info, view)
        if self._verify:
            self._check(info, view, rows)
        mapped.gather(rows, out)

    def _rows(self, info: ArrayInfo, view: int) -> MappedRows:
        key = (info.name, view)
        if key not in self._mapped:
            if not 0 <= view < self.manifest.num_views:
                raise UsageError(f"View {view} is not in {self.path}: it has {self.manifest.num_views}, from 0.")
            grid = self.manifest.grid
            files = [self.path / array_file(info.name, view, block) for block in range(grid.chunks_per_view)]
            self._forget(len(files))
            self._mapped[key] = MappedRows(files, grid.chunk_rows, info.width, info.dtype)
        return self._mapped[key]

    def _check(self, info: ArrayInfo, view: int, rows: np.ndarray) -> None:
        """Compare the chunks of these rows with their checksums, each once."""
        grid = self.manifest.grid
        for block in np.unique(rows // grid.chunk_rows):
            name = array_file(info.name, view, int(block))
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
