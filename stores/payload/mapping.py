"""Chunk files mapped side by side, so that one view of an uncompressed array is one flat NumPy array.

One address range is reserved and every chunk file is mapped into its place (MAP_FIXED); nothing is read or
copied until rows are gathered. Where chunks are not page-aligned, or the system has no such call, the rows are
gathered chunk by chunk instead.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import CorruptStoreError

# Linux lets a process hold 65,530 mappings by default; stay well below, other libraries map files too.
MAX_MAPPINGS = 16_000
_MAP_FIXED = 0x10
# files kept mapped where they cannot lie side by side: enough for a window of any order, well below the limit
_KEPT_BLOCKS = 1000


class MappedRows:
    """The rows of one view of one array: (N, width), read-only.

    Every file's size is checked before it is mapped, so that a truncated file is an error, not a SIGBUS.

    Args:
        files: the chunk files in row order; all have ``chunk_rows`` rows.
        chunk_rows: R.
        width: elements of a row.
        dtype: element type, little endian.

    Raises:
        CorruptStoreError: a file is missing or has the wrong size.
    """

    def __init__(self, files: Sequence[Path], chunk_rows: int, width: int, dtype: str) -> None:
        self._chunk_rows = chunk_rows
        self._shape = (chunk_rows, width)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._files = files
        chunk_bytes = chunk_rows * width * self._dtype.itemsize
        for file in files:
            _check_size(file, chunk_bytes)
        aligned = len(files) == 1 or chunk_bytes % mmap.ALLOCATIONGRANULARITY == 0
        self._flat: np.ndarray | None = None
        self._blocks: dict[int, np.ndarray] = {}
        if sys.platform == "linux" and aligned and len(files) <= MAX_MAPPINGS:
            self._flat = _map_side_by_side(files, chunk_bytes).view(self._dtype).reshape(-1, width)

    @property
    def mappings(self) -> int:
        """How many files are kept mapped, at most."""
        return min(_KEPT_BLOCKS, len(self._files)) if self._flat is None else len(self._files)

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy ``rows`` (int64, any order, within range) into ``out`` (len(rows), width)."""
        if self._flat is not None:
            # "clip" lets NumPy write straight into `out`; the caller has checked the range
            self._flat.take(rows, axis=0, out=out, mode="clip")
            return
        gather_by_block(rows, self._chunk_rows, self._block, out)

    def bring(self, block: int) -> None:
        """Ask the system to read a chunk file into memory, and return at once."""
        advise(self._files[block])

    def _block(self, block: int) -> np.ndarray:
        mapped = self._blocks.get(block)
        if mapped is None:
            file = self._files[block]
            _check_size(file, self._shape[0] * self._shape[1] * self._dtype.itemsize)
            if len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.clear()
            mapped = self._blocks[block] = np.asarray(np.memmap(file, self._dtype, "r", shape=self._shape))
        return mapped


def gather_by_block(rows: np.ndarray, chunk_rows: int, block_of: Callable[[int], np.ndarray], out: np.ndarray) -> None:
    """Copy rows that lie in several chunks into ``out``, one chunk after the other.

    Args:
        rows: (B,) int64, any order.
        chunk_rows: R.
        block_of: gives the rows (R, width) of a chunk.
        out: (B, width).
    """
    blocks = rows // chunk_rows
    order = np.argsort(blocks, kind="stable")
    found, starts = np.unique(blocks[order], return_index=True)
    ends = np.append(starts[1:], len(rows))[: len(starts)]
    for block, start, end in zip(found.tolist(), starts, ends, strict=True):
        places = order[start:end]
        out[places] = block_of(block)[rows[places] - block * chunk_rows]


def advise(file: Path) -> None:
    """Ask the system to read a file into memory, and return at once."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def check_there(file: Path) -> int:
    """The size of a chunk file.

    Raises:
        CorruptStoreError: it is missing.
    """
    try:
        return file.stat().st_size
    except OSError as error:
        raise CorruptStoreError(f"{file} cannot be read ({error.strerror}). Restore this chunk.") from None


def _check_size(file: Path, expected: int) -> None:
    size = check_there(file)
    if size != expected:
        raise CorruptStoreError(f"{file} has {size} bytes instead of {expected}. Restore this chunk.")


def _map_side_by_side(files: Sequence[Path], chunk_bytes: int) -> np.ndarray:
    """All files as one array of bytes; the mappings end with the array."""
    total = len(files) * chunk_bytes
    # read-only, so that the system sets no memory aside for it: stores larger than memory must fit
    reserved = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    flat = np.frombuffer(reserved, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    )  # fmt: skip
    for position, file in enumerate(files):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            address = flat.ctypes.data + position * chunk_bytes
            placed = libc.mmap(address, chunk_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
        finally:
            os.close(descriptor)
        if placed != address:
            raise CorruptStoreError(f"{file} cannot be mapped ({os.strerror(ctypes.get_errno())}).")
    return flat
