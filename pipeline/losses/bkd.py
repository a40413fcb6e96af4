"""Balanced knowledge distillation: the teacher's rare classes weigh more."""

# Shapes: B batch, C classes.

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError
from .numerics import at_least_one, check_logits, check_scale, full_precision, kl_divergence, log_softmaxes
from .registry import Loss, LossInputs, register


def bkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    class_counts: Tensor,
    *,
    beta: float = 0.9999,
    temperature: float = 2.0,
) -> Tensor:
    """Balanced knowledge distillation (BKD): ``T^2 (1/B) sum_b KL( phat_b || q_b )``.

    ``phat_c = w_c p_c / sum_k w_k p_k`` with ``p = softmax(z^t / T)``, ``q = softmax(z^s / T)`` and the inverse
    effective number of samples ``w_c = (1 - beta) / (1 - beta^{n_c})``, n_c the class's training samples.

    Shaoyu Zhang, Chen Chen, Xiyuan Hu, Silong Peng, "Balanced Knowledge Distillation for Long-tailed Learning",
    https://arxiv.org/abs/2104.10510; w is from Cui et al., "Class-Balanced Loss Based on Effective
    Number of Samples", https://arxiv.org/abs/1901.05555. The defaults are those of the authors' code. (They
    scale w to the sum C, which the normalisation cancels; cross-entropy is added with weight 1.) Equal counts
    or beta = 0 make it `kd`.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        class_counts: (C,) training samples of each class; a class without any counts as one sample, which is
            kdpipe's choice (the formula's weight would be infinite).
        beta: from 0, below 1; the nearer to 1, the more rare classes weigh.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, negative counts, beta outside [0, 1), a temperature
            out of range.
    """
    check_logits("bkd", student_logits, teacher_logits)
    _check_beta(beta)
    check_scale("bkd", "temperature", temperature)
    counts = at_least_one("bkd", class_counts, student_logits)
    with full_precision(student_logits):
        log_student, log_teacher = log_softmaxes(student_logits, teacher_logits, temperature)
        # the effective number up to a constant, 1 - beta^n, without cancellation where beta^n is near 1
        log_effective = torch.log(-torch.expm1(counts * _log(beta)))
        log_balanced = (log_teacher - log_effective).log_softmax(1)
        return temperature**2 * kl_divergence(log_balanced, log_student).mean()


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


def _check_beta(beta: float) -> None:
    if not 0 <= beta < 1:
        raise UsageError(f"bkd: beta is {beta}. Give a number from 0, below 1, such as 0.9999.")


@register
@dataclass(frozen=True, kw_only=True)
class BKD(Loss):
    """`bkd` as an entry of the registry."""

    name: ClassVar[str] = "bkd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    beta: float = 0.9999
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_beta(self.beta)
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return bkd(
            batch.student_logits,
            batch.need("logits", self.name),
            batch.need("class_counts", self.name),
            beta=self.beta,
            temperature=self.temperature,
        )
