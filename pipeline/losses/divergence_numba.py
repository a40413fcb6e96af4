"""KD and LTKD on a processor: softmaxes, divergences and the gradient in two passes over the logits, by numba.

The classes lie group by group; KD is the case of one group. With ``q_G`` the student's mass of a group, ``qtilde`` and
``ptilde`` the student's and the teacher's softmax within it, and ``phat_G`` the mass that the student is to learn,

``L = alpha sum_G phat_G log(phat_G / q_G) + beta sum_G KL(ptilde_G || qtilde_G)``

``dL / d(z_i / T) = alpha qtilde_i (q_G - phat_G) + beta (qtilde_i - ptilde_i)``, G the group of i
"""

# Shapes: B batch, C classes, P groups.

import math
from collections.abc import Sequence

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
    batch, groups = len(student), len(sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    q, p, gradient = (np.empty_like(student) for _ in range(3))
    log_q, log_p, within, losses = (
        np.empty((batch, groups)),
        np.empty((batch, groups)),
        np.empty(batch),
        np.empty(batch),
    )
    scale = np.float32(1 / temperature)

    def first(start: int, stop: int) -> None:
        _softmaxes(
            student, student.view(np.int32), teacher, teacher.view(np.int32), q, q.view(np.int32), p, p.view(np.int32),
            starts, scale, np.uint64(start), np.uint64(stop), log_q, log_p, within,
        )  # fmt: skip

    def second(start: int, stop: int) -> None:
        part = np.uint64(start), np.uint64(stop)
        per_sample = np.float32(temperature / batch)
        _balance(q, p, log_q, log_p, mass, within, starts, alpha, beta, per_sample, *part, losses, gradient)

    share_rows(first, batch, student.shape[1])
    mass = _batch_mass(log_p) if log_mass is None else log_mass
    share_rows(second, batch, student.shape[1])
    return temperature**2 * float(losses.mean()), gradient


def _batch_mass(log_p: np.ndarray) -> np.ndarray:
    """The logarithms of the batch's group masses, (P,), summed over the batch."""
    log_p = log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)
    largest = log_p.max(0)
    return largest + np.log(np.exp(log_p - largest).sum(0))


@compiled
def _exponentials(values, bits, out, out_bits, power, row, first, last, scale):
    """``exp(scale (values - largest))`` into ``out``; returns the largest, and the sum of what is written.

    Bits that are compared as integers of the same order, and powers of two that are added to bits, keep the loops
    free of branches. The polynomial's error, of degree 6 on [-ln 2 / 2, ln 2 / 2], is below float32's. A value that
    is not finite makes the sum NaN.
    """
    best = _LOWEST
    total = _ZERO
    for c in range(first, last):
        ordered = bits[row, c] ^ ((bits[row, c] >> 31) & _ALL_BUT_SIGN)
        best = ordered if ordered > best else best
        total += values[row, c] * _ZERO
    largest = np.int32(best ^ ((best >> 31) & _ALL_BUT_SIGN)).view(np.float32)
    for c in range(first, last):
        x = max((values[row, c] - largest) * scale, _SMALLEST)
        k = np.floor(x * _LOG2E + _HALF)
        r = (x - k * _LN2_HIGH) - k * _LN2_LOW
        out[row, c] = _ONE + r * (_ONE + r * (_HALF + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
        power[c] = np.int32(k)
    for c in range(first, last):
        out_bits[row, c] += power[c] << _MANTISSA_BITS
    for c in range(first, last):
        total += out[row, c]
    return largest, total


@compiled
def _softmaxes(
    student, student_bits, teacher, teacher_bits, q, q_bits, p, p_bits, starts, scale, start, stop, log_q, log_p, within
):
    """Both softmaxes within groups, the logarithms of the groups' sums, and the divergences within, summed."""
    power = np.empty(student.shape[1], np.int32)
    for row in range(start, stop):
        within[row] = 0.0
        for g in range(log_q.shape[1]):
            first, last = starts[g], starts[g + 1]
            best_q, sum_q = _exponentials(student, student_bits, q, q_bits, power, row, first, last, scale)
            best_p, sum_p = _exponentials(teacher, teacher_bits, p, p_bits, power, row, first, last, scale)
            of_q, of_p, gap = _ONE / sum_q, _ONE / sum_p, _ZERO
            for c in range(first, last):
                q[row, c] *= of_q
                weight = p[row, c] * of_p
                p[row, c] = weight
                gap += weight * (((teacher[row, c] - best_p) - (student[row, c] - best_q)) * scale)
            rest_q, rest_p = math.log(sum_q), math.log(sum_p)
            within[row] += gap - rest_p + rest_q
            log_q[row, g] = best_q * np.float64(scale) + rest_q
            log_p[row, g] = best_p * np.float64(scale) + rest_p


@compiled
def _logsumexp(values, row):
    largest, total = values[row, 0], 0.0
    for g in range(values.shape[1]):
        largest = max(largest, values[row, g])
    for g in range(values.shape[1]):
        total += math.exp(values[row, g] - largest)
    return largest + math.log(total)


@compiled
def _balance(q, p, log_q, log_p, mass, within, starts, alpha, beta, per_sample, start, stop, losses, gradient):
    """The rebalanced masses, the loss and the gradient."""
    of_p = per_sample * np.float32(beta)
    for row in range(start, stop):
        for g in range(mass.shape[0]):
            log_p[row, g] -= mass[g]
        all_q, all_p, cross = _logsumexp(log_q, row), _logsumexp(log_p, row), 0.0
        for g in range(mass.shape[0]):
            log_wanted, log_has = log_p[row, g] - all_p, log_q[row, g] - all_q
            wanted = math.exp(log_wanted)
            cross += wanted * (log_wanted - log_has)
            of_q = per_sample * np.float32(alpha * (math.exp(log_has) - wanted) + beta)
            for c in range(starts[g], starts[g + 1]):
                gradient[row, c] = q[row, c] * of_q - p[row, c] * of_p
        losses[row] = alpha * cross + beta * within[row]
