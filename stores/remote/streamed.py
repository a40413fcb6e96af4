"""The rows of one view of one remote array, from whole chunks that are fetched into the cache and mapped from there."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from ..arrays import ArrayInfo
from ..errors import CorruptStoreError, KdpipeError
from ..layout import Grid
from ..payload.layout import PayloadLayout, Rows
from ..payload.mapping import gather_by_block
from ..streaming import WINDOW_CHUNKS
from .transfer import Transfers

# files kept mapped: well below what Linux lets a process hold
_KEPT_MAPPINGS = 4000
# decompressed chunks kept in memory
_KEPT_DECODED_BYTES = 2**30
_ATTEMPTS = 5


class StreamedRows:
    """The rows of one view of one array: (N, width), read-only; see :class:`kdpipe.stores.payload.layout.Rows`.

    Chunks are kept mapped, or decoded, up to a bound; the one not used for longest goes first. Where the whole view
    has been fetched and fits, it is mapped as that of a local store is.

    Args:
        files: where the chunk files are once they are fetched, in row order.
        sizes: bytes of each.
        fetch: sees that a chunk's file is there and right.
        transfers: the threads that fetch.
        grid: the chunks of the store.
        info: the array.
        layout: how the files are read.
        max_bytes: bound of what is kept mapped.
    """

    def __init__(
        self,
        files: Sequence[Path],
        sizes: Sequence[int],
        fetch: Callable[[int], None],
        transfers: Transfers,
        *,
        grid: Grid,
        info: ArrayInfo,
        layout: PayloadLayout,
        max_bytes: int,
    ) -> None:
        self._files, self._sizes, self._fetch, self._transfers = files, sizes, fetch, transfers
        self._grid, self._chunk_rows, self._info, self._layout = grid, grid.chunk_rows, info, layout
        bound = _KEPT_DECODED_BYTES if layout.decodes else max_bytes
        self._max_kept = max(1, min(bound // (grid.chunk_rows * info.row_bytes), _KEPT_MAPPINGS))
        self._kept: dict[int, np.ndarray] = {}
        self._coming: dict[int, Future[None]] = {}
        self._lock = threading.Lock()
        self._mapped: Rows | None = None
        self._map_when_whole = not layout.decodes

    @property
    def mappings(self) -> int:
        """How many files are kept mapped, at most."""
        return min(self._max_kept, len(self._files))

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy ``rows`` (int64, any order, within range) into ``out`` (len(rows), width)."""
        if self._mapped is not None:
            self._mapped.gather(rows, out)
            return
        blocks = np.unique(rows // self._chunk_rows).tolist()
        for block in blocks:
            if block not in self._kept:
                self._begin(block)
        if blocks and blocks[-1] - blocks[0] < len(blocks):
            self._read_on(blocks[-1] + 1)
        gather_by_block(rows, self._chunk_rows, self._block, out)
        if self._map_when_whole and len(self._kept) == len(self._files):
            self._map_all()

    def bring(self, block: int) -> None:
        """Begin to fetch a chunk, as soon as there is room among the transfers."""
        if block not in self._kept and block not in self._coming and self._mapped is None:
            self._transfers.wait_for_room(self._sizes[block])
            self._begin(block)

    def _read_on(self, block: int) -> None:
        """Begin to fetch the chunks after those of a run of rows, while there is room: they may be asked for next."""
        for following in range(block, min(block + WINDOW_CHUNKS, len(self._files))):
            if following not in self._kept and following not in self._coming:
                if not self._transfers.has_room(self._sizes[following]):
                    return
                self._begin(following)

    def _begin(self, block: int) -> "Future[None]":
        self._transfers.check_process()
        with self._lock:
            if block not in self._coming:
                self._coming[block] = self._transfers.submit(lambda: self._fetch(block), self._sizes[block])
            return self._coming[block]

    def _block(self, block: int) -> np.ndarray:
        # taken out and put in again: the first one is the one not asked for longest
        rows = self._kept.pop(block, None)
        if rows is None:
            rows = self._open(block)
            while len(self._kept) >= self._max_kept:
                del self._kept[next(iter(self._kept))]
        self._kept[block] = rows
        return rows

    def _open(self, block: int) -> np.ndarray:
        for _ in range(_ATTEMPTS):
            coming = self._begin(block)
            try:
                coming.result()
                return self._read(block)
            except FileNotFoundError:
                continue  # evicted by another run before it was opened
            finally:
                self._coming.pop(block, None)
        raise KdpipeError(
            f"{self._files[block]} is evicted as soon as it is fetched. Give the cache more room (--cache-size)."
        )

    def _read(self, block: int) -> np.ndarray:
        try:
            return self._layout.read_block(self._files[block], self._info, len(self._grid.rows(block)))
        except CorruptStoreError:
            if self._files[block].exists():
                raise
            raise FileNotFoundError(self._files[block]) from None

    def _map_all(self) -> None:
        """Map the view side by side; where another run has evicted a part of it by now, it stays as it is."""
        self._map_when_whole = False
        with contextlib.suppress(KdpipeError, OSError):
            self._mapped = self._layout.rows(self._files, self._info)
            self._kept.clear()
