"""Rows of an array whose chunk files are opened or decoded one by one when a row of theirs is asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..arrays import ArrayInfo
from .mapping import advise, check_there, gather_by_block

# of one array and view: more than a window of streaming by chunks needs
_KEPT_BYTES = 2**30


class KeptRows:
    """The rows of one view of one array: (N, width), read-only; the chunks last asked for are kept.

    Args:
        files: the chunk files in row order; all but the last have ``chunk_rows`` rows.
        chunk_rows: R.
        read: gives the rows (R, width) of a chunk file.
        max_kept: how many chunks are kept.
        mapped: whether ``read`` maps the file, rather than read it into memory.

    Raises:
        CorruptStoreError: a file is missing; when it is read, that it is damaged.
    """

    def __init__(
        self,
        files: Sequence[Path],
        chunk_rows: int,
        read: Callable[[Path], np.ndarray],
        *,
        max_kept: int,
        mapped: bool = False,
    ) -> None:
        self._files, self._chunk_rows, self._read = files, chunk_rows, read
        self._max_kept, self._mapped = max_kept, mapped
        for file in files:
            check_there(file)
        self._kept: dict[int, np.ndarray] = {}

    @property
    def mappings(self) -> int:
        """How many files are kept mapped, at most."""
        return min(self._max_kept, len(self._files)) if self._mapped else 0

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy ``rows`` (int64, any order, within range) into ``out`` (len(rows), width)."""
        gather_by_block(rows, self._chunk_rows, self._block, out)

    def bring(self, block: int) -> None:
        """Ask the system to read a chunk file into memory, and return at once."""
        advise(self._files[block])

    def _block(self, block: int) -> np.ndarray:
        # taken out and put in again: the first one is the one not asked for longest
        rows = self._kept.pop(block, None)
        if rows is None:
            rows = self._read(self._files[block])
            while len(self._kept) >= self._max_kept:
                del self._kept[next(iter(self._kept))]
        self._kept[block] = rows
        return rows


def decoded_chunks_kept(chunk_rows: int, info: ArrayInfo) -> int:
    """How many decoded chunks of an array may be kept in memory."""
    return max(1, _KEPT_BYTES // max(1, chunk_rows * info.row_bytes))
