"""Chunks compressed as Zarr's Blosc codec does it: bits shuffled by element, then zstd.

Shuffled, the bits that all elements have in common (of a class id below 1000, the upper 6 of 16) vanish, so that ranks
cost the bits they need.
"""

import struct
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptStoreError, UsageError

if TYPE_CHECKING:
    from zarr.codecs import BloscCodec

# beyond 7 it is ten times slower and 1 % smaller
_LEVEL = 7
# what a chunk that does not compress is larger by
HEADER_BYTES = 16
# Blosc's limit: 2 GiB less its header
_MAX_BYTES = 2**31 - 1 - HEADER_BYTES


def zarr_codec(item_bytes: int) -> "BloscCodec":
    """The codec as zarr-python knows it, for elements of so many bytes."""
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="zstd", clevel=_LEVEL, shuffle="bitshuffle", typesize=item_bytes, blocksize=0)


def compress(chunk: memoryview, item_bytes: int) -> bytes:
    """The bytes of a compressed chunk; the same chunk gives the same bytes.

    Raises:
        UsageError: the chunk is too large to be compressed.
    """
    if chunk.nbytes > _MAX_BYTES:
        raise UsageError(f"A chunk of {chunk.nbytes:,} bytes is too large to compress. Give a smaller --chunk-rows.")
    blosc = _blosc()
    codec = blosc.Blosc("zstd", clevel=_LEVEL, shuffle=blosc.BITSHUFFLE, blocksize=0, typesize=item_bytes)
    return codec.encode(np.frombuffer(chunk, np.uint8))


def decompress(data: bytes, num_bytes: int, place: str) -> np.ndarray:
    """Undo :func:`compress`.

    Args:
        data: of a compressed chunk.
        num_bytes: that the chunk must have.
        place: how to name the file in an error.

    Returns:
        (num_bytes,) uint8.

    Raises:
        CorruptStoreError: this is no compressed chunk of that size.
    """
    # its header says how much it holds: looked at before memory is taken, and because Blosc itself would believe it
    stated, length = struct.unpack_from("<4xI4xI", data) if len(data) >= HEADER_BYTES else (-1, -1)
    if (stated, length) != (num_bytes, len(data)):
        raise CorruptStoreError(f"{place} is not a compressed chunk of {num_bytes} bytes. Restore this chunk.")
    chunk = np.empty(num_bytes, np.uint8)
    try:
        _blosc().decompress(data, chunk)
    except RuntimeError as error:
        raise CorruptStoreError(f"{place} cannot be decompressed ({error}). Restore this chunk.") from None
    return chunk


@cache
def _blosc() -> Any:
    blosc: Any = import_module("numcodecs.blosc")  # heavy: only where a compressed store is read or written

    # with threads, the order of the blocks in a chunk would be chance, and a store not byte-identical; zarr sets it too
    blosc.use_threads = False
    return blosc
