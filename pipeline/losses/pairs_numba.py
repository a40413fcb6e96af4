"""GRKD's pairs on a processor: one pass over all pairs of classes, compiled by numba, for loss and gradient.

With ``u = exp(a - max a)`` the gradient's part of a pair is ``sigma(a_j - a_i) = u_j / (u_i + u_j)``, and its loss is
``softplus(a_j - a_i) = log(u_i + u_j) - (a_i - max a)``. So a pair costs an addition and its share of a division: four
better classes are taken at a time, with one reciprocal, of the product of their four sums. Of that product the
logarithm is taken, too: it is multiplied up for every class, its exponent counted apart now and then, and there is
one logarithm for hundreds of classes in the end.

All in float64, whatever the input: float32 was no faster, and its products hold little.
"""

# Shapes: B batch, C classes, P places: the classes and some without weight, so that loops run over whole vectors.

import math

import numpy as np
import torch
from torch import Tensor

from .compiled import compiled, share_rows

# Products lie above 2^-BITS, well within float64's range.
_BITS = 1000
_WIDEST = _BITS * math.log(2)
_TOGETHER = 4
_VECTOR = 16  # numbers that a loop takes at a time, at most
_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_BIAS = 1023


def can_take(scores: Tensor) -> bool:
    """Whether the kernel can compute with these scores: they are finite, and none is far below the best."""
    return _spread(scores.detach()) <= _WIDEST  # NaN and infinity compare false


def pair_losses(scores: Tensor, num_above: int, ties: Tensor | None) -> tuple[Tensor, Tensor]:
    """As :func:`.pairs.pair_losses`, the gradient always with it: (B,) and (B, C)."""
    scores = scores.detach()
    batch, num_classes = scores.shape
    shifted = scores.double() - scores.amax(1, keepdim=True)
    u = shifted.new_zeros(batch, num_classes + _VECTOR)
    torch.exp(shifted, out=u[:, :num_classes])
    # of sums between exp(-spread) and 2, so many may be multiplied
    num_factors = _BITS // max(_spread(scores) / math.log(2), 1.0)
    together = _TOGETHER if num_factors >= _TOGETHER else 1
    first_worse = np.arange(1, num_classes + 1)[None] if ties is None else _first_worse(ties.numpy())
    losses, gradient = torch.empty_like(shifted[:, 0]), torch.empty_like(shifted)
    arrays = [tensor.numpy() for tensor in (shifted, u, losses, gradient)]

    def work(start: int, stop: int) -> None:
        _rows(*arrays, num_above, first_worse, together, int(num_factors // together), start, stop)

    share_rows(work, batch, num_classes * num_above // 2)
    return losses.to(scores.dtype), gradient.to(scores.dtype)


def _spread(scores: Tensor) -> float:
    """How far the lowest score of a row lies below its highest, in the widest row; NaN where there is one."""
    return float((scores.amax(1) - scores.amin(1)).max())  # aminmax is many times slower


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
def _against_one(i, first, last, u, product, worse):
    """Class i against the worse ones from ``first`` to ``last``: adds to the gradients and the products."""
    better, total = u[i], 0.0
    for j in range(np.uint64(first), np.uint64(last)):  # of signed ones, each would be looked at for being below 0
        added = better + u[j]
        weight = u[j] / added
        total += weight
        worse[j] += weight
        product[j] *= added
    worse[i] -= total


@compiled
def _against_four(i, first, last, u, product, worse):
    """Class i and the three after it against the worse ones, with one division for the four."""
    b0, b1, b2, b3 = u[i], u[i + 1], u[i + 2], u[i + 3]
    t0 = t1 = t2 = t3 = 0.0
    for j in range(np.uint64(first), np.uint64(last)):  # of signed ones, each would be looked at for being below 0
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
    worse[i] -= t0
    worse[i + 1] -= t1
    worse[i + 2] -= t2
    worse[i + 3] -= t3


@compiled
def _log_of_products(product, exponent):
    """The logarithm of the product of all: of the mantissas left, hundreds multiplied before one is taken."""
    total, power, mantissas = 0.0, 0, 1.0
    for c in range(product.shape[0]):
        power += exponent[c]
        mantissas *= product[c]
        if c % 512 == 511:
            total += math.log(mantissas)
            mantissas = 1.0
    return total + math.log(mantissas) + power * math.log(2.0)


@compiled
def _rows(shifted, u, losses, gradient, num_above, first_worse, together, num_steps, start, stop):
    """Rows ``start`` to ``stop``: fills ``losses`` and ``gradient``.

    Args:
        shifted: (B, C) scores, the largest of each row 0.
        u: (B, P) their exponentials, 0 in the places without a class.
        losses: (B,).
        gradient: (B, C).
        num_above: how many leading places may be the better one of a pair.
        first_worse: (B, C) or (1, C).
        together: how many better classes are taken at a time: 4, or 1 where the scores spread too far for that.
        num_steps: after how many of these the products' exponents must be taken out.
        start: the first row.
        stop: the end of the rows.
    """
    num_classes = shifted.shape[1]
    product, exponent, worse = np.empty(u.shape[1]), np.empty(u.shape[1], np.int64), np.empty(u.shape[1])
    pattern = product.view(np.int64)
    for row in range(start, stop):
        product[:], exponent[:], worse[:] = 1.0, 0, 0.0
        weights, first = u[row], first_worse[row if first_worse.shape[0] > 1 else 0]
        loss, step, i = 0.0, 0, 0
        while i < num_above:
            size = together if i + together <= num_above else 1
            shared = first[i + size - 1]  # from here on they are taken together, over whole vectors
            last = shared + (num_classes - shared + _VECTOR - 1) // _VECTOR * _VECTOR
            for k in range(i, i + size):
                loss -= (num_classes - first[k]) * shifted[row, k]
                _against_one(k, first[k], shared if size == _TOGETHER else last, weights, product, worse)
            if size == _TOGETHER:
                _against_four(i, shared, last, weights, product, worse)
            step += 1
            if step % num_steps == 0:
                _take_out_exponents(pattern, exponent)
            i += size
        _take_out_exponents(pattern, exponent)
        losses[row] = loss + _log_of_products(product[:num_classes], exponent)
        gradient[row] = worse[:num_classes]
