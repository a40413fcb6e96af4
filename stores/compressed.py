"""Compressed chunk files, decompressed when a row of theirs is asked for, the last ones kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .arrays import ArrayInfo
from .mapping import advise, check_there, gather_by_block
from .payload import read_compressed

# of one array and view: more than a window of streaming by chunks needs
_KEPT_BYTES = 2**30


class CompressedRows:
    """The rows of one view of one compressed array: (N, width), read-only.

    Args:
        files: the chunk files in row order; all have ``chunk_rows`` rows.
        chunk_rows: R.
        info: the array.

    Raises:
        CorruptStoreError: a file is missing; when it is read, that it is damaged.
    """

    mappings = 0

    def __init__(self, files: Sequence[Path], chunk_rows: int, info: ArrayInfo) -> None:
        self._files, self._chunk_rows, self._info = files, chunk_rows, info
        for file in files:
            check_there(file)
        self._max_kept = max(1, _KEPT_BYTES // max(1, chunk_rows * info.row_bytes))
        self._kept: dict[int, np.ndarray] = {}

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
            rows = read_compressed(self._files[block], self._info, self._chunk_rows)
            while len(self._kept) >= self._max_kept:
                del self._kept[next(iter(self._kept))]
        self._kept[block] = rows
        return rows
