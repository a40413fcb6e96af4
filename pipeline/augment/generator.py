"""The random numbers of augmented views: SplitMix64 sequences, each begun at a key of (seed, view, sample id).

Written down here and in no library, so that geometry drawn today is drawn again by any later version, on any machine.
Shapes: B samples, K numbers of each.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_TO_UNIT = 2.0**-53


@dataclass(frozen=True, kw_only=True)
class ViewKeys:
    """Where the sequences of B samples begin: one for each purpose, so that none shifts another.

    Attributes:
        geometry: (B,) uint64, of crop and flip.
        library: (B,) uint64, seeds of the library's transforms.
        mixing: (B,) uint64, of partner and ratio.
    """

    geometry: np.ndarray
    library: np.ndarray
    mixing: np.ndarray


def view_keys(seed: int, view: int, sample_ids: Sequence[str]) -> ViewKeys:
    """The keys of one view of some samples.

    A key is BLAKE2b with 24 bytes over seed and view (8 bytes each, little endian) and the sample id (UTF-8), cut into
    three little-endian numbers.

    Args:
        seed: of the store, from 0 to 2^64 - 1.
        view: number of the view.
        sample_ids: B ids.
    """
    head = struct.pack("<QQ", seed, view)
    digests = b"".join(hashlib.blake2b(head + name.encode(), digest_size=24).digest() for name in sample_ids)
    keys = np.frombuffer(digests, "<u8").reshape(-1, 3).astype(np.uint64)
    return ViewKeys(geometry=keys[:, 0], library=keys[:, 1], mixing=keys[:, 2])


def uniforms(keys: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """Numbers ``first`` to ``first + count - 1`` of each sequence: (B, count) float64, in [0, 1).

    Number i of a sequence is ``(mix(key + (i + 1) * 0x9E3779B97F4A7C15) >> 11) / 2^53``, modulo 2^64, with the
    finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
    https://doi.org/10.1145/2660193.2660195, figure 17).
    """
    places = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    x = keys[:, None] + places * _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def below(uniform: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Whole numbers from 0 to ``bound`` - 1, int64, from uniform ones; even to ``bound`` parts in 2^53."""
    return np.floor(uniform * bound).astype(np.int64)
