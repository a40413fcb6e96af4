"""Decoupled knowledge distillation: the true class against the rest, and the rest among themselves."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError
from .numerics import (
    check_labels,
    check_logits,
    check_scale,
    check_weight,
    compute_dtype,
    full_precision,
    kl_divergence,
)
from .registry import Loss, LossInputs, register


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    r"""Decoupled knowledge distillation (DKD): ``T^2 (1/B) sum_b [ alpha TCKD + beta NCKD ]``.

    With ``p = softmax(z^t / T)``, ``q = softmax(z^s / T)``, y the label and ``p_{\y}`` the other classes'
    probabilities, normalised among themselves:

    ``TCKD = KL( [p_y, 1 - p_y] || [q_y, 1 - q_y] )``, ``NCKD = KL( p_{\y} || q_{\y} )``

    Borui Zhao, Quan Cui, Renjie Song, Yiyu Qiu, Jiajun Liang, "Decoupled Knowledge Distillation",
    https://arxiv.org/abs/2203.08679, section 3. KD is alpha = 1 with beta = 1 - p_y, sample by sample. The
    defaults are the authors' for CIFAR-100.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        labels: (B,) integer class ids.
        alpha: factor of the true class's part, 0 or above.
        beta: factor of the other classes' part, 0 or above.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, a single class, labels outside the classes (looked for
            in CPU tensors only), a temperature out of range, a negative alpha or beta.
    """
    check_logits("dkd", student_logits, teacher_logits)
    check_labels("dkd", labels, student_logits)
    check_weight("dkd", "alpha", alpha)
    check_weight("dkd", "beta", beta)
    check_scale("dkd", "temperature", temperature)
    if student_logits.shape[1] < 2:
        raise UsageError("dkd: student_logits has one class. Give two or more: there must be others than the true one.")
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        student_target, student_others = _split(student_logits.to(dtype) / temperature, labels)
        teacher_target, teacher_others = _split(teacher_logits.detach().to(dtype) / temperature, labels)
        target = kl_divergence(teacher_target, student_target).mean()
        others = kl_divergence(teacher_others, student_others).mean()
        return temperature**2 * (alpha * target + beta * others)


def _split(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (the true class, all others), (B, 2), and of the others among themselves, (B, C - 1)."""
    labels = labels.long().unsqueeze(1)
    places = torch.arange(scores.shape[1] - 1, device=scores.device)
    others = scores.gather(1, places + (places >= labels))
    both = torch.cat([scores.gather(1, labels), others.logsumexp(1, keepdim=True)], dim=1)
    return both.log_softmax(1), others.log_softmax(1)


@register
@dataclass(frozen=True, kw_only=True)
class DKD(Loss):
    """`dkd` as an entry of the registry; it warms up over 20 epochs, as the authors' does on CIFAR-100."""

    name: ClassVar[str] = "dkd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    warmup_epochs: float = 20.0
    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight(self.name, "alpha", self.alpha)
        check_weight(self.name, "beta", self.beta)
        check_scale(self.name, "temperature", self.temperature)

    @property
    def one_label(self) -> bool:
        """Whether it needs one label for every sample."""
        return True

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return dkd(
            batch.student_logits,
            batch.need("logits", self.name),
            batch.need("labels", self.name),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
