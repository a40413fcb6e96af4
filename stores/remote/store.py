"""A store that is read where it lies: tables when they are asked for, chunks when rows of theirs are."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..arrays import ArrayInfo
from ..errors import CorruptStoreError, UsageError
from ..files import FileRecord, write_file
from ..layout import CLASSES, receipt_file, samples_file
from ..manifest import Manifest, Receipt
from ..reader import BatchT, Store
from ..streaming import WINDOW_CHUNKS, BatchSampler
from ..writer import receipts_checksum
from .cache import ChunkCache
from .client import RemoteObjects
from .location import Location
from .push import content_of
from .reading import read_manifest, read_object, read_receipt
from .streamed import StreamedRows
from .transfer import Transfers, in_parallel


def open_remote(
    url: str, *, cache: str | os.PathLike[str] | None = None, cache_bytes: int | None = None
) -> "RemoteStore":
    """Open a store at an address; this reads its manifest and nothing else.

    Args:
        url: of the store.
        cache: folder of the cache of chunks.
        cache_bytes: its bound.

    Raises:
        CorruptStoreError: there is no store, or its manifest is damaged.
        RefusedError: the store is not finished, or of a newer format version.
        KdpipeError: the server cannot be reached, or does not let us read.
    """
    objects = RemoteObjects(Location.parse(url))
    manifest, _ = read_manifest(objects)
    return RemoteStore(objects, manifest, ChunkCache(None if cache is None else Path(cache), cache_bytes))


class RemoteStore(Store):
    """A remote store, open for reading in the process that opened it, and in spawned ones.

    Every file is compared with its receipt before its first use in a process, whether it was fetched now or lay in the
    cache. A forked process can read what was mapped before, and is refused anything else.
    """

    remote = True

    def __init__(self, objects: RemoteObjects, manifest: Manifest, cache: ChunkCache) -> None:
        name = content_of(manifest).rpartition(":")[2]
        super().__init__(cache.folder / f"{name}.kd", manifest)
        self._objects, self._cache = objects, cache
        self._transfers = Transfers()
        self._receipts_proved = False

    def __str__(self) -> str:
        return str(self._objects.location)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self._objects.location.address, self._cache.folder, self._cache.max_bytes)

    @cached_property
    def classes(self) -> pa.Table:
        """One row per class: class_id, name, count, group."""
        self._have_all(record for record in self.manifest.files if record.path == CLASSES)
        return super().classes

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that are stored once, for all rows."""
        self._have_all(self.manifest.files)
        return super().constants

    def samples(self, columns: Sequence[str] | None = None, *, blocks: Sequence[int] | None = None) -> pa.Table:
        """One row per sample, in row order; see :meth:`kdpipe.stores.Store.samples`."""
        wanted = range(self.manifest.grid.chunks_per_view) if blocks is None else blocks
        self._have_all(self._record(block, samples_file(block)) for block in wanted)
        return super().samples(columns, blocks=wanted)

    def file(self, record: FileRecord) -> Path:
        """See :meth:`kdpipe.stores.Store.file`; another run may evict the file, so use it at once."""
        self._have(record)
        return super().file(record)

    def receipt(self, chunk: int) -> Receipt:
        """The receipt of a chunk; with the first come all."""
        self._prove_receipts()
        return super().receipt(chunk)

    def has_receipt(self, chunk: int) -> bool:  # noqa: ARG002
        """Whether a chunk has been written: all have, the store is finished."""
        return True

    def read_ahead(
        self,
        batches: Iterable[BatchT],
        sampler: BatchSampler,
        *,
        arrays: Sequence[str],
        view: int = 0,
        first_batch: int = 0,
    ) -> Iterator[BatchT]:
        """See :meth:`kdpipe.stores.Store.read_ahead`.

        Raises:
            UsageError: a random order of more than the cache holds, which would fetch the same chunks over and over.
        """
        names = (arrays,) if isinstance(arrays, str) else arrays
        row_bytes = sum(info.row_bytes for name in names for info in self.stored(name))
        if sampler.order == "random" and row_bytes * len(self) > self._cache.max_bytes:
            raise UsageError(
                f"A random order of {row_bytes * len(self):,} bytes of {self} needs a cache that holds them; it has "
                f"{self._cache.max_bytes:,}. Use --order chunks, or give more with --cache-size."
            )
        return super().read_ahead(batches, sampler, arrays=arrays, view=view, first_batch=first_batch)

    def _open_rows(self, info: ArrayInfo, view: int) -> StreamedRows:
        grid = self.manifest.grid
        blocks = range(grid.chunks_per_view)
        names = [self.layout.array_file(info.name, view, block) for block in blocks]
        records = [self._record(view * len(blocks) + block, name) for block, name in enumerate(names)]
        window = -(-len(records) // max(1, len(records) // WINDOW_CHUNKS))
        needed = min(2 * window, len(records)) * max(record.bytes for record in records)
        if self._cache.max_bytes < needed:
            raise UsageError(
                f"A cache of {self._cache.max_bytes:,} bytes is too small for {self}: the {2 * window} chunks of two "
                f"windows of its '{info.name}' are {needed:,} bytes. Give more with --cache-size."
            )
        return StreamedRows(
            [self.path / record.path for record in records],
            [record.bytes for record in records],
            lambda block: self._have(records[block]),
            self._transfers,
            grid=grid,
            info=info,
            layout=self.layout,
            max_bytes=self._cache.max_bytes,
        )

    def _record(self, chunk: int, path: str) -> FileRecord:
        record = next((record for record in self.receipt(chunk).files if record.path == path), None)
        if record is None:
            raise CorruptStoreError(f"{self}: the receipt of chunk {chunk} does not list {path}.")
        return record

    def _prove_receipts(self) -> None:
        """Have all receipts, those of an earlier run too: only together they are what the manifest names."""
        if self._receipts_proved:
            return
        if not self._are_receipts_here():
            in_parallel(range(self.manifest.grid.num_chunks), self._fetch_receipt)
            if not self._are_receipts_here():
                raise CorruptStoreError(
                    f"The receipts at {self} are not those of its manifest. Its owner can push it again."
                )
        self._receipts_proved = True

    def _fetch_receipt(self, chunk: int) -> None:
        _, document = read_receipt(self._objects, self.manifest, chunk)
        write_file(self.path, receipt_file(chunk), document)

    def _are_receipts_here(self) -> bool:
        try:
            return receipts_checksum(self.path, self.manifest) == self.manifest.receipts
        except OSError:
            return False

    def _have_all(self, records: Iterable[FileRecord]) -> None:
        in_parallel(records, self._have, size=lambda record: record.bytes)

    def _have(self, record: FileRecord) -> None:
        """See that a file is in the cache, and what its record says."""
        if record.is_met(self.path):
            os.utime(self.path / record.path)  # the one not used for longest is evicted first
            return
        self._cache.add(self.path, record, read_object(self._objects, record.path, record))


def _reopened(url: str, cache: Path, cache_bytes: int) -> RemoteStore:
    return open_remote(url, cache=cache, cache_bytes=cache_bytes)
