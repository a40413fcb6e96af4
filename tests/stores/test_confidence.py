"""How sure a teacher is, against float64; probabilities in the place of logits are noticed."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores.confidence import confidence_and_entropy, warn_of_probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.floats(0.1, 50))
def test_confidence_and_entropy(seed: int, num_classes: int, scale: float) -> None:
    logits = (scale * np.random.default_rng(seed).standard_normal((8, num_classes))).astype(np.float32)
    probabilities = softmax(logits.astype(np.float64))
    confidence, entropy = confidence_and_entropy(logits)
    np.testing.assert_allclose(confidence, probabilities.max(1), rtol=1e-5)
    np.testing.assert_allclose(entropy, -(probabilities * np.log(probabilities + 1e-300)).sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_probabilities_are_noticed(dtype: type, caplog: pytest.LogCaptureFixture) -> None:
    logits = np.random.default_rng(0).standard_normal((64, 1000))
    probabilities = softmax(logits).astype(dtype).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        for harmless in (logits, np.log(probabilities), np.abs(logits), probabilities - 0.01, probabilities[:0]):
            warn_of_probabilities(harmless.astype(np.float32))
        assert caplog.text == ""
        warn_of_probabilities(probabilities)
    assert "look like probabilities" in caplog.text
