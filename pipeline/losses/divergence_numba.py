"""KD and LTKD on a processor: softmaxes, divergences and the gradient in two passes over the logits, by numba.

The classes lie group by group; KD is the case of one group. With ``q_G`` the student's mass of a group, ``qtilde`` and
``ptilde`` the student's and the teacher's softmax within it, and ``phat_G`` the mass that the student is to learn,

``L = alpha sum_G phat_G log(phat_G / q_G) + beta sum_G KL(ptilde_G || qtilde_G)``

``dL / d(z_i / T) = alpha qtilde_i (q_G - phat_G) + beta (qtilde_i - ptilde_i)``, G the group of i
"""

# Shapes: B batch, C classes, P groups.

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .compiled import compiled, share_rows

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_LOG2E = np.float32(1.44269504)
# ln 2 in two parts, the first with so few bits that its multiples are exact (Cody and Waite's reduction)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_SMALLEST = np.float32(-87.0)  # exp of it is the smallest normal float32, nearly
_C3, _C4, _C5, _C6 = np.float32(1 / 6), np.float32(1 / 24), np.float32(1 / 120), np.float32(1 / 720)
_MANTISSA_BITS = 23
_ALL_BUT_SIGN, _LOWEST = np.int32(2**31 - 1), np.int32(-(2**31))
# a row is padded to a multiple of this: the numbers that a loop works on at once, for all processors of today
_LANES = 32


def group_divergence(
    student: np.ndarray,
    teacher: np.ndarray,
    sizes: Sequence[int],
    log_mass: np.ndarray | None,
    alpha: float,
    beta: float,
    temperature: float,
) -> tuple[float, np.ndarray]:
    """``T^2 (alpha L_cross + beta L_within)``, the mean over the batch, and its gradient.

    Args:
        student: (B, C) float32 logits, C-contiguous, the classes group by group.
        teacher: (B, C) float32, likewise.
        sizes: the number of classes of each of the P groups.
        log_mass: (P,) float64 logarithms of the masses that the teacher's are divided by; None: the batch's own.
        alpha: factor of the cross-group loss.
        beta: factor of the within-group loss.
        temperature: T.

    Returns:
        The loss, and (B, C) float32.
    """
    (batch, classes), groups = student.shape, len(sizes)
    starts = _group_starts(tuple(sizes))
    padded = -(-classes // _LANES) * _LANES
    q, p, gradient = (np.empty((batch, width), np.float32) for width in (padded, padded, classes))
    of_q, of_p = np.empty((2, batch, groups), np.float32)
    log_q, log_p = np.empty((2, batch, groups))
    within, losses = np.empty((2, batch))
    scale, per_sample = np.float32(1 / temperature), np.float32(temperature / batch)

    def first(start: int, stop: int) -> None:
        _softmaxes(
            student, student.view(np.int32), teacher, teacher.view(np.int32), starts, scale,
            np.uint64(start), np.uint64(stop), q, p, of_q, of_p, log_q, log_p, within,
        )  # fmt: skip

    def second(start: int, stop: int) -> None:
        _balance(
            q, p, of_q, of_p, log_q, log_p, mass, within, starts, alpha, beta, per_sample,
            np.uint64(start), np.uint64(stop), losses, gradient,
        )  # fmt: skip

    share_rows(first, batch, classes)
    mass = _batch_mass(log_p) if log_mass is None else log_mass
    share_rows(second, batch, classes)
    return temperature**2 * float(losses.mean()), gradient


@lru_cache(maxsize=8)
def _group_starts(sizes: tuple[int, ...]) -> np.ndarray:
    """(P + 1,) where the columns of each group begin, and end."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)


@compiled
def _batch_mass(log_p):
    """The logarithms of the batch's group masses, (P,), summed over the batch."""
    total, largest = np.empty(log_p.shape[0]), np.full(log_p.shape[1], -np.inf)
    for row in range(log_p.shape[0]):
        total[row] = _logsumexp(log_p, row)
        for g in range(log_p.shape[1]):
            largest[g] = max(largest[g], log_p[row, g] - total[row])
    mass = np.zeros(log_p.shape[1])
    for g in range(log_p.shape[1]):
        for row in range(log_p.shape[0]):
            mass[g] += _exponential(np.float32(log_p[row, g] - total[row] - largest[g]))
    return largest + np.log(mass)


@compiled
def _exponential(x):
    """``exp(x)``, above the smallest normal number.

    A power of two that is added to the bits keeps the loops around it free of branches. The polynomial's error, of
    degree 6 on [-ln 2 / 2, ln 2 / 2], is below float32's.
    """
    x = max(x, _SMALLEST)
    k = np.floor(x * _LOG2E + _HALF)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    y = _ONE + r * (_ONE + r * (_HALF + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    return np.int32(np.float32(y).view(np.int32) + np.int32(np.int32(k) << _MANTISSA_BITS)).view(np.float32)


@compiled
def _below_largest(values, bits, row, first, last, scale, out):
    """``scale (values - largest)`` into ``out``; returns the largest: NaN if a value is not finite.

    Bits that are compared as integers of the same order let LLVM use vector instructions.
    """
    best, none = _LOWEST, _ZERO
    for c in range(first, last):
        ordered = bits[row, c] ^ ((bits[row, c] >> 31) & _ALL_BUT_SIGN)
        best = ordered if ordered > best else best
        none += values[row, c] * _ZERO
    largest = np.int32(best ^ ((best >> 31) & _ALL_BUT_SIGN)).view(np.float32) + none
    for c in range(first, last):
        out[c] = (values[row, c] - largest) * scale
    return largest


@compiled
def _softmaxes(
    student, student_bits, teacher, teacher_bits, starts, scale, start, stop, q, p, of_q, of_p, log_q, log_p, within
):
    """Exponentials of both, what makes softmaxes within groups of them, log-sums of groups, and divergences within.

    Groups may be short, and what is left over of a vector is slow: exponentials are taken of whole rows, padded.
    """
    x, y = np.full(q.shape[1], _SMALLEST), np.full(q.shape[1], _SMALLEST)
    largest_q, largest_p = np.empty(log_q.shape[1], np.float32), np.empty(log_q.shape[1], np.float32)
    for row in range(start, stop):
        for g in range(log_q.shape[1]):
            largest_q[g] = _below_largest(student, student_bits, row, starts[g], starts[g + 1], scale, x)
            largest_p[g] = _below_largest(teacher, teacher_bits, row, starts[g], starts[g + 1], scale, y)
        for c in range(np.uint64(q.shape[1])):
            q[row, c] = _exponential(x[c])
        for c in range(np.uint64(q.shape[1])):
            p[row, c] = _exponential(y[c])
        total = 0.0
        for g in range(log_q.shape[1]):
            sum_q, sum_p, gap = _ZERO, _ZERO, _ZERO
            for c in range(starts[g], starts[g + 1]):
                sum_q += q[row, c]
                sum_p += p[row, c]
                gap += p[row, c] * (y[c] - x[c])
            of_q[row, g], of_p[row, g] = _ONE / sum_q, _ONE / sum_p
            rest_q, rest_p = math.log(sum_q), math.log(sum_p)
            total += gap * of_p[row, g] - rest_p + rest_q
            log_q[row, g] = largest_q[g] * np.float64(scale) + rest_q
            log_p[row, g] = largest_p[g] * np.float64(scale) + rest_p
        within[row] = total


@compiled
def _logsumexp(values, row):
    largest, total = values[row, 0], 0.0
    for g in range(values.shape[1]):
        largest = max(largest, values[row, g])
    for g in range(values.shape[1]):
        total += _exponential(np.float32(values[row, g] - largest))
    return largest + math.log(total)


@compiled
def _balance(
    q, p, of_q, of_p, log_q, log_p, mass, within, starts, alpha, beta, per_sample, start, stop, losses, gradient
):
    """The rebalanced masses, the loss and the gradient."""
    for row in range(start, stop):
        for g in range(mass.shape[0]):
            log_p[row, g] -= mass[g]
        all_q, all_p, cross = _logsumexp(log_q, row), _logsumexp(log_p, row), 0.0
        for g in range(mass.shape[0]):
            log_wanted, log_has = log_p[row, g] - all_p, log_q[row, g] - all_q
            wanted, has = _exponential(np.float32(log_wanted)), _exponential(np.float32(log_has))
            cross += wanted * (log_wanted - log_has)
            share_q = per_sample * np.float32(alpha * (has - wanted) + beta) * of_q[row, g]
            share_p = per_sample * np.float32(beta) * of_p[row, g]
            for c in range(starts[g], starts[g + 1]):
                gradient[row, c] = q[row, c] * share_q - p[row, c] * share_p
        losses[row] = alpha * cross + beta * within[row]
