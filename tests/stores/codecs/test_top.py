"""Top-k: the best classes exactly, and logsumexps that a float64 computation confirms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kdpipe.stores import BadLogitsError, UsageError
from kdpipe.stores.codecs import TopK
from scipy import special

# few different values, so that there are ties, and both zeros
VALUES = st.one_of(st.sampled_from([-1.5, -0.0, 0.0, 2**-140, 2.0]), st.floats(-(2**100), 2**100, width=32))
LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=VALUES)


@given(LOGITS, st.data())
def test_the_best_classes_are_those_of_a_stable_sort(logits, data):
    k = data.draw(st.integers(1, logits.shape[1]))
    stored = TopK(k=k).encode(logits, np.arange(logits.shape[1]) % 3)
    np.testing.assert_array_equal(stored["top_classes"], np.argsort(-logits, axis=1, kind="stable")[:, :k])


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(3, 9)), elements=st.floats(-500, 500, width=32)),
    st.lists(st.sampled_from([0.5, 1.0, 3.0, 20.0]), min_size=1, unique=True),
    st.data(),
)
def test_what_is_stored(logits, temperatures, data):
    num_classes = logits.shape[1]
    codec = TopK(k=data.draw(st.integers(1, num_classes)), temperatures=tuple(temperatures))
    groups = np.array(data.draw(st.lists(st.integers(0, 2), min_size=num_classes, max_size=num_classes)))
    stored = codec.encode(logits, groups)
    for array in codec.arrays(num_classes):
        assert stored[array.name].dtype == array.dtype
        assert stored[array.name].shape == (len(logits), array.width)
    classes = stored["top_classes"].astype(int)
    np.testing.assert_array_equal(stored["top_logits"], np.take_along_axis(logits, classes, 1))
    by_group = stored["group_logsumexp"].reshape(len(logits), len(temperatures), 3)
    for index, temperature in enumerate(temperatures):
        scores = logits.astype(np.float64) / temperature
        np.testing.assert_allclose(stored["logsumexp"][:, index], logsumexp(scores), rtol=1e-6, atol=1e-6)
        for group in range(3):
            expected = logsumexp(scores[:, groups == group])
            np.testing.assert_allclose(by_group[:, index, group], expected, rtol=1e-6, atol=1e-6)


def logsumexp(scores: np.ndarray) -> np.ndarray:
    return np.asarray(special.logsumexp(scores, axis=1)) if scores.size else np.full(len(scores), -np.inf)


def test_class_ids_take_the_bytes_they_need():
    assert TopK(k=3).arrays(256)[0].dtype == "uint8"
    assert TopK(k=3).arrays(257)[0].dtype == "uint16"
    # 6 bytes a kept class; 4 for each logsumexp: (1 + 3 groups) x 2 temperatures
    assert sum(array.row_bytes for array in TopK(k=50).arrays(1000)) == 50 * 6 + 32


def test_more_classes_than_there_are():
    with pytest.raises(UsageError, match="topk:11 keeps more classes than the 10"):
        TopK(k=11).arrays(10)


def test_a_temperature_that_is_not_stored_names_those_that_are():
    codec = TopK(k=5, temperatures=(1, 2.5))
    assert [codec.temperature_index(t) for t in (1, 2.5)] == [0, 1]
    with pytest.raises(UsageError, match=r"temperature 4 is not stored.*has 1, 2\.5.*temperatures=1,2\.5,4"):
        codec.temperature_index(4)


def test_there_is_no_decode():
    assert not hasattr(TopK(k=5), "decode")


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(BadLogitsError, match="finite"):
        TopK(k=1).encode(np.array([[0, np.nan]], np.float32), np.array([0, 2]))


def test_many_rows_are_encoded_as_single_ones():
    logits = np.random.default_rng(0).normal(0, 3, (2500, 500)).astype(np.float32)
    groups = np.arange(500) % 3
    codec = TopK(k=7)
    together = codec.encode(logits, groups)
    for row in (0, 2096, 2097, 2499):
        for name, values in codec.encode(logits[row : row + 1], groups).items():
            np.testing.assert_array_equal(together[name][row : row + 1], values)
