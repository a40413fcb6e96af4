"""How sure a teacher is: its largest probability, and the entropy of its distribution."""

import numpy as np


def confidence_and_entropy(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The softmax's largest probability and its entropy in nats: (B,) each.

    Args:
        logits: (B, C) float32, finite.
    """
    shifted = logits - logits.max(1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(1)
    return 1 / total, np.log(total) - np.einsum("bc,bc->b", weights, shifted) / total
