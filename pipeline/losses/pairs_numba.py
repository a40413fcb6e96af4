"""GRKD's pairs on a processor: one pass over all pairs of classes, compiled by numba, for loss and gradient.

With ``u = exp(a - max a)`` the gradient's part of a pair is ``sigma(a_j - a_i) = u_j / (u_i + u_j)``, and its loss is
``softplus(a_j - a_i) = log(u_i + u_j) - (a_i - max a)``. So a pair costs an addition and its share of a division: four
better classes are taken at a time, with one reciprocal, of the product of their four sums. Of that product the
logarithm is taken, too: it is multiplied up for every class, its exponent counted apart, and there is one logarithm
for each class in the end.

All in float64, whatever the input: in float32 the products would only hold logits that differ by 20 or less, and the
kernel would be 1.3 times as fast.
"""

# Shapes: B batch, C classes.

import math

import numpy as np
import torch
from torch import Tensor

from .compiled import compiled, share_rows

# The product of four sums must be a normal float64: (2 exp(-spread))^4 > 2^-1022.
_WIDEST = 170.0
_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_BIAS = 1023


def can_take(scores: Tensor) -> bool:
    """Whether the kernel can compute with these scores: they are finite, and none is far below the best."""
    spread = scores.detach().amax(1) - scores.detach().amin(1)  # aminmax is many times slower
    return bool((spread <= _WIDEST).all())  # NaN and infinity compare false


def pair_losses(scores: Tensor, num_above: int, ties: Tensor | None) -> tuple[Tensor, Tensor]:
    """As :func:`.pairs.pair_losses`, the gradient always with it: (B,) and (B, C)."""
    values = np.ascontiguousarray(scores.detach().numpy(), np.float64)
    batch, num_classes = values.shape
    first_worse = np.arange(1, num_classes + 1)[None] if ties is None else _first_worse(ties.numpy())
    losses, gradient = np.empty(batch), np.empty_like(values)

    def work(start: int, stop: int) -> None:
        _rows(values, num_above, first_worse, start, stop, losses, gradient)

    share_rows(work, batch, num_classes * num_above // 2)
    return torch.from_numpy(losses).to(scores.dtype), torch.from_numpy(gradient).to(scores.dtype)


def _first_worse(ties: np.ndarray) -> np.ndarray:
    """(B, C): for each place, the first place after it that is not its equal."""
    num_classes = ties.shape[1]
    places = np.arange(num_classes)
    # a place without equals before it begins a run: the next such place ends the run
    begins = np.where(ties == 0, places, num_classes)
    following = np.concatenate([begins[:, 1:], np.full((len(ties), 1), num_classes)], axis=1)
    return np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1].copy()


@compiled
def _take_out_exponents(pattern, exponent):
    """Count the exponents of positive numbers (given by their bits) and leave the mantissas, in [1, 2)."""
    for j in range(pattern.shape[0]):
        exponent[j] += (pattern[j] >> _MANTISSA_BITS) - _BIAS
        pattern[j] = (pattern[j] & _MANTISSA) | (_BIAS << _MANTISSA_BITS)


@compiled
def _against_one(better, u, product, worse):
    """One better class against many: their weights, summed; adds to the others' gradients and products."""
    total = 0.0
    for j in range(u.shape[0]):
        added = better + u[j]
        weight = u[j] / added
        total += weight
        worse[j] += weight
        product[j] *= added
    return total


@compiled
def _against_four(better, u, product, worse):
    """Four better classes against many, with one division for the four."""
    b0, b1, b2, b3 = better[0], better[1], better[2], better[3]
    t0 = t1 = t2 = t3 = 0.0
    for j in range(u.shape[0]):
        s0, s1, s2, s3 = b0 + u[j], b1 + u[j], b2 + u[j], b3 + u[j]
        s01, s23 = s0 * s1, s2 * s3
        all_four = s01 * s23
        inverse = u[j] / all_four
        inverse01, inverse23 = s23 * inverse, s01 * inverse
        w0, w1, w2, w3 = s1 * inverse01, s0 * inverse01, s3 * inverse23, s2 * inverse23
        t0 += w0
        t1 += w1
        t2 += w2
        t3 += w3
        worse[j] += (w0 + w1) + (w2 + w3)
        product[j] *= all_four
    return t0, t1, t2, t3


@compiled
def _rows(scores, num_above, first_worse, start, stop, losses, gradient):
    """Rows ``start`` to ``stop``: fills ``losses`` and ``gradient``."""
    num_classes = scores.shape[1]
    u, product = np.empty(num_classes), np.empty(num_classes)
    pattern, exponent = product.view(np.int64), np.empty(num_classes, np.int64)
    for row in range(start, stop):
        best = scores[row].max()
        worse = gradient[row]
        for c in range(num_classes):
            u[c] = math.exp(scores[row, c] - best)
            product[c], exponent[c], worse[c] = 1.0, 0, 0.0
        first = first_worse[row if first_worse.shape[0] > 1 else 0]
        loss = 0.0
        i = 0
        while i < num_above:
            size = 4 if i + 4 <= num_above else 1
            shared = first[i + 3] if size == 4 else num_classes  # from here on the four are taken together
            for k in range(i, i + size):
                loss -= (num_classes - first[k]) * (scores[row, k] - best)
                few = slice(first[k], shared)
                worse[k] -= _against_one(u[k], u[few], product[few], worse[few])
                _take_out_exponents(pattern[few], exponent[few])
            if size == 4:
                many = slice(shared, num_classes)
                t0, t1, t2, t3 = _against_four(u[i : i + 4], u[many], product[many], worse[many])
                worse[i] -= t0
                worse[i + 1] -= t1
                worse[i + 2] -= t2
                worse[i + 3] -= t3
                _take_out_exponents(pattern[many], exponent[many])
            i += size
        for c in range(num_classes):
            loss += math.log(product[c]) + exponent[c] * math.log(2.0)
        losses[row] = loss
