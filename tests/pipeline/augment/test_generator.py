"""Random numbers are SplitMix64's, their keys depend on every part, and golden values hold them for ever."""

import hashlib
import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.augment.generator import below, uniforms, view_keys
from scipy import stats

# of the reference implementation, begun at 1234567
REFERENCE = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_the_sequence_is_that_of_splitmix64() -> None:
    found = uniforms(np.array([1234567], np.uint64), 5)[0]
    assert found.tolist() == [(value >> 11) / 2**53 for value in REFERENCE]


def test_golden_keys() -> None:
    keys = view_keys(7, 3, ["a", "b/ü.png"])
    assert keys.geometry.tolist() == [8220880328942223883, 10386728100946293605]
    assert keys.library.tolist() == [12528749197628994258, 682078551624855391]
    assert keys.mixing.tolist() == [8298550331094304812, 16299718309034006340]
    digest = hashlib.blake2b(struct.pack("<QQ", 7, 3) + b"a", digest_size=24).digest()
    assert struct.unpack("<QQQ", digest) == (keys.geometry[0], keys.library[0], keys.mixing[0])


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.lists(st.text(max_size=5), max_size=5), st.integers(0, 9))
def test_a_number_depends_on_its_place_and_key_alone(seed: int, view: int, names: list[str], first: int) -> None:
    together = uniforms(view_keys(seed, view, names).geometry, 4, first)
    assert together.shape == (len(names), 4)
    for row, name in zip(together, names, strict=True):
        alone = uniforms(view_keys(seed, view, [name]).geometry, first + 4)[0, first:]
        assert row.tolist() == alone.tolist()


def test_every_part_changes_every_key() -> None:
    found = [view_keys(seed, view, [name]) for seed in (0, 1) for view in (0, 1) for name in ("a", "b")]
    assert len({int(key[0]) for keys in found for key in (keys.geometry, keys.library, keys.mixing)}) == 24


def test_numbers_are_uniform_within_and_across_sequences() -> None:
    numbers = uniforms(view_keys(0, 0, [str(i) for i in range(2000)]).geometry, 50)
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    for column in (0, 1, 49):
        assert stats.kstest(numbers[:, column], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.08


@given(st.integers(1, 2**53 - 1))
def test_whole_numbers_stay_below_their_bound(bound: int) -> None:
    low, high = below(np.array([0.0, 1 - 2.0**-53]), bound).tolist()
    assert (low, high) == (0, bound - 1) if bound < 2**52 else low <= high < bound
