"""REDistill: a power divergence in the place of KL, which trusts an unreliable teacher less."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError
from .numerics import check_exponent, check_logits, check_scale, full_precision, kl_divergence, log_softmaxes
from .registry import Loss, LossInputs, register


def redistill(
    student_logits: Tensor, teacher_logits: Tensor, *, power: float = 2 / 3, temperature: float = 4.0
) -> Tensor:
    """Power-divergence distillation (REDistill): ``T^2 (1/B) sum_b D_l( p_b || q_b )``.

    ``D_l(p || q) = 1/(l (l + 1)) sum_k p_k [ (p_k / q_k)^l - 1 ]``, the power divergence of Cressie and Read

    with ``p = softmax(z^t / T)``, ``q = softmax(z^s / T)`` and l = power; l = 0 is KL(p || q), which makes it `kd`.
    Ondrej Tybl, Lukas Neumann, "REDistill: Robust Estimator Distillation for Balancing Robustness and
    Efficiency", https://arxiv.org/abs/2602.04677: l = 2/3. That p is the teacher, T = 4 and T^2 are kdpipe's
    choices.

    A class to which the student gives e^-x times the teacher's probability counts e^{l x}: a student very far
    from its teacher (x above 130 in float32) makes the loss infinite, and its gradient no number.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        power: l, above -1.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, a temperature out of range, a power not above -1.
    """
    check_logits("redistill", student_logits, teacher_logits)
    _check_power(power)
    check_scale("redistill", "temperature", temperature)
    with full_precision(student_logits):
        log_q, log_p = log_softmaxes(student_logits, teacher_logits, temperature)
        if power == 0:
            return temperature**2 * kl_divergence(log_p, log_q).mean()
        p, growth = log_p.exp(), power * (log_p - log_q)
        # p expm1(growth) keeps its digits where p and q are close, but is 0 times infinity where p underflows
        terms = torch.where(growth < 1, p * growth.clamp_max(1).expm1(), (log_p + growth).exp() - p)
        return temperature**2 / (power * (power + 1)) * terms.sum(1).mean()


def _check_power(power: float) -> None:
    check_exponent("redistill", "power", power)
    if power <= -1:
        raise UsageError(f"redistill: power is {power}. Give a number above -1, such as 0.67.")


@register
@dataclass(frozen=True, kw_only=True)
class REDistill(Loss):
    """`redistill` as an entry of the registry."""

    name: ClassVar[str] = "redistill"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    power: float = 2 / 3
    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_power(self.power)
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        teacher_logits = batch.need("logits", self.name)
        return redistill(batch.student_logits, teacher_logits, power=self.power, temperature=self.temperature)
