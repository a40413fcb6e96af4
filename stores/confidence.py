"""How sure a teacher is: its largest probability, and the entropy of its distribution."""

import logging

import numpy as np

logger = logging.getLogger(__name__)

# of the sum of probabilities that were rounded to float16
_SUM_ERROR = 2e-3


def confidence_and_entropy(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The softmax's largest probability and its entropy in nats: (B,) each.

    Args:
        logits: (B, C) float32, finite.
    """
    shifted = logits - logits.max(1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(1)
    return 1 / total, np.log(total) - np.einsum("bc,bc->b", weights, shifted) / total


def warn_of_probabilities(logits: np.ndarray) -> None:
    """Say so in the log where every row looks like probabilities: their softmax is nearly flat, and teaches little.

    Args:
        logits: (B, C), finite.
    """
    if np.size(logits) and logits.min() >= 0 and np.abs(logits.sum(1, dtype=np.float64) - 1).max() < _SUM_ERROR:
        logger.warning(
            "the teacher's outputs look like probabilities: none is negative, and each row adds up to 1. A store holds "
            "logits. Take what the teacher gives before its softmax, or the logarithm (of an ONNX file: log=true)."
        )
