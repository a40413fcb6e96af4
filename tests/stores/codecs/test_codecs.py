"""Every codec that gives logits back stays within the bound it states, whatever the logits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kdpipe.stores import BadLogitsError, UsageError
from kdpipe.stores.codecs import Factorised, Float16, Float32, Int8

GROUPS = np.array([0, 1, 2])
SHAPES = st.tuples(st.integers(1, 4), st.integers(2, 9))


def logits(largest: float) -> st.SearchStrategy[np.ndarray]:
    """Any float32 numbers, and rows of close ones far from 0, where float32 itself is coarse."""
    anything = hnp.arrays(np.float32, SHAPES, elements=st.floats(-largest, largest, width=32))
    offset = st.floats(-1e4, 1e4, width=32)
    close = st.tuples(
        hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 8, width=32)),
        offset,
        st.sampled_from([1, 1e-3, 1e-6]),
    ).map(lambda drawn: (drawn[0] * np.float32(drawn[2]) + np.float32(drawn[1])).astype(np.float32))
    return anything | close


def check_bound(codec, values, constants, true):
    stored = codec.encode(values, GROUPS)
    decoded = codec.decode({**stored, **constants})
    assert decoded.shape == true.shape
    error = np.abs(decoded.astype(np.float64) - true.astype(np.float64))
    assert (error <= codec.error_bound(values, constants)).all()
    return stored, decoded


@given(logits(2.0**127))
def test_float32_is_exact(values):
    _, decoded = check_bound(Float32(), values, {}, values)
    np.testing.assert_array_equal(decoded, values)


@given(logits(65504))
def test_float16_stays_within_a_part_in_2048(values):
    stored, _ = check_bound(Float16(), values, {}, values)
    assert stored["logits"].dtype == np.float16


@given(logits(2.0**126))
def test_int8_stays_within_its_bound_and_never_changes_the_best_class(values):
    stored, decoded = check_bound(Int8(), values, {}, values)
    assert stored["logit_codes"].dtype == np.uint8
    assert stored["logit_scale"].dtype == np.float32
    np.testing.assert_array_equal(decoded.argmax(1), values.argmax(1))
    np.testing.assert_array_equal(decoded.max(1), values.max(1))
    # the bound is worth stating: a 255th of the range, about, and far less at the top
    spread = values.max(1).astype(np.float64) - values.min(1)
    assert (
        Int8().error_bound(values, {}).max(1)
        <= 1.01 * (spread / 255 + spread / 255**2) + 1e-6 * np.abs(values).max(1) + 1e-40
    ).all()


def test_int8_keeps_apart_what_float32_would_let_meet():
    # one float32 step below a large maximum, over a range that makes the code's step smaller than half of that
    below = np.nextafter(np.float32(1000), np.float32(0))
    values = np.array([[below, 1000, 998.135]], np.float32)
    stored = Int8().encode(values, GROUPS)
    assert stored["logit_codes"].tolist() == [[1, 0, 255]]
    assert Int8().decode(stored).argmax(1).tolist() == [1]


@pytest.mark.parametrize("steps", [1, 5, 100_000])
def test_int8_of_the_smallest_numbers(steps):
    values = np.array([[0, 1, steps]], np.float32) * np.float32(-(2.0**-149))
    stored, _ = check_bound(Int8(), values, {}, values)
    assert stored["logit_codes"][0, 0] == 0


def test_int8_of_equal_logits():
    values = np.full((2, 3), 4.5, np.float32)
    np.testing.assert_array_equal(Int8().decode(Int8().encode(values, GROUPS)), values)


def test_int8_costs_a_byte_a_class_and_eight():
    assert sum(array.row_bytes for array in Int8().arrays(1000)) == 1008


@given(st.data())
def test_factorised_stays_within_its_bound(data):
    num_features, num_classes = data.draw(st.integers(1, 4)), data.draw(st.integers(5, 8))
    numbers = st.floats(-100, 100, width=32)
    features = data.draw(hnp.arrays(np.float32, (3, num_features), elements=numbers))
    weight = data.draw(hnp.arrays(np.float32, (num_classes, num_features), elements=numbers))
    bias = data.draw(hnp.arrays(np.float32, (num_classes,), elements=numbers))
    constants = {"classifier_weight": weight, "classifier_bias": bias}
    codec = Factorised(num_features=num_features)
    assert {info.name: info.shape for info in codec.constants(num_classes)} == {
        k: v.shape for k, v in constants.items()
    }
    check_bound(codec, features, constants, features.astype(np.float64) @ weight.T.astype(np.float64) + bias)


def test_factorised_needs_more_classes_than_features():
    assert [array.row_bytes for array in Factorised(num_features=1024).arrays(21841)] == [2048]
    with pytest.raises(UsageError, match="Use --codec float16"):
        Factorised(num_features=1000).arrays(1000)
    with pytest.raises(UsageError, match="factorised:F"):
        Factorised().arrays(1000)


@pytest.mark.parametrize("codec", [Float32(), Float16(), Int8(), Factorised(num_features=2)], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(codec, value):
    with pytest.raises(BadLogitsError, match="finite"):
        codec.encode(np.array([[0, value]], np.float32), GROUPS)


@pytest.mark.parametrize(("codec", "value"), [(Float16(), 65536), (Int8(), 2e38), (Factorised(num_features=2), -65536)])
def test_overflow_is_refused(codec, value):
    with pytest.raises(BadLogitsError, match="holds numbers up to"):
        codec.encode(np.array([[0, value]], np.float32), GROUPS)
