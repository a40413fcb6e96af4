"""ABKD: the alpha-beta divergence, of which forward and reverse KL are two corners."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .numerics import check_exponent, check_logits, check_scale, full_precision, log_softmaxes
from .registry import Loss, LossInputs, register


def abkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.8,
    beta: float = 0.3,
    temperature: float = 4.0,
) -> Tensor:
    """The alpha-beta divergence (ABKD) of the student's softmax from the teacher's, batch mean.

    With ``p = softmax(z^t / T)``, ``q = softmax(z^s / T)``, a = alpha, b = beta:

    ``D = - 1/(a b) sum_k [ p^a q^b - a/(a+b) p^{a+b} - b/(a+b) q^{a+b} ]``

    continued to its limits where a, b or a + b is 0: (1, 0) is KL(p || q), (0, 1) is KL(q || p), (0, 0) is half
    the squared distance of the log-probabilities. Guanghui Wang, Zhiyong Yang, Zitai Wang, Shi Wang, Qianqian
    Xu, Qingming Huang, "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation
    via alpha-beta-Divergence", https://arxiv.org/abs/2505.04560. There is no T^2. The defaults of
    alpha and beta are the authors' for CIFAR-100 (ResNet56 to ResNet20), where the weight is 32; T = 4 is kdpipe's
    choice. (Their code gives the limits for a = 0 and b = 0 another factor, 1/b and 1/a instead of its square; the two
    agree at 1.)

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        alpha: a, of either sign, at most a million.
        beta: b, the same.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, a temperature out of range, alpha or beta out of range.
    """
    check_logits("abkd", student_logits, teacher_logits)
    check_exponent("abkd", "alpha", alpha)
    check_exponent("abkd", "beta", beta)
    check_scale("abkd", "temperature", temperature)
    with full_precision(student_logits):
        log_q, log_p = log_softmaxes(student_logits, teacher_logits, temperature)
        # D(p, q; a, b) = D(q, p; b, a): the larger of a and b may be the one that is divided by
        if abs(alpha) >= abs(beta):
            return _divergence(log_p, log_q, alpha, beta).sum(1).mean()
        return _divergence(log_q, log_p, beta, alpha).sum(1).mean()


def _divergence(log_p: Tensor, log_q: Tensor, a: float, b: float) -> Tensor:
    """The terms of D, |a| >= |b|, as ``[ (q^s - p^s) / s - p^a (q^b - p^b) / b ] / a`` with s = a + b.

    Each fraction has a limit where its divisor is 0, so that nothing cancels near b = 0 and near s = 0.
    """
    if a == 0:
        return 0.5 * (log_q - log_p) ** 2
    return (_gap(log_p, log_q, a + b) - _gap(log_p, log_q, b, a * log_p)) / a


def _gap(log_p: Tensor, log_q: Tensor, power: float, log_factor: Tensor | float = 0.0) -> Tensor:
    """``(q^power - p^power) / power``, ``log(q / p)`` for power 0, times a factor, which alone may underflow."""
    if power == 0:
        return torch.as_tensor(log_factor).exp() * (log_q - log_p)
    exponent = power * (log_q - log_p)
    # the larger of the two powers is put outside: what is left is e^x - 1 with x <= 0, which cannot overflow
    from_q = (log_factor + power * log_q).exp() * -(-exponent.clamp_min(0)).expm1()
    from_p = (log_factor + power * log_p).exp() * exponent.clamp_max(0).expm1()
    return from_q.where(exponent >= 0, from_p) / power


@register
@dataclass(frozen=True, kw_only=True)
class ABKD(Loss):
    """`abkd` as an entry of the registry."""

    name: ClassVar[str] = "abkd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    alpha: float = 0.8
    beta: float = 0.3
    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_exponent(self.name, "alpha", self.alpha)
        check_exponent(self.name, "beta", self.beta)
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        teacher_logits = batch.need("logits", self.name)
        return abkd(
            batch.student_logits, teacher_logits, alpha=self.alpha, beta=self.beta, temperature=self.temperature
        )
