"""MixKD: the student on a mixed input learns the mixture of what the teacher says of its parts."""

# Shapes: B batch, C classes.

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError
from .kd import kd
from .numerics import check_logits, check_scale, compute_dtype, full_precision, kl_divergence, log_softmaxes
from .registry import Loss, LossInputs, register


def mixkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    partner_logits: Tensor,
    mixing: Tensor | float,
    *,
    temperature: float = 4.0,
) -> Tensor:
    """KD on mixed inputs: ``T^2 (1/B) sum_b KL( m_b p_b + (1 - m_b) p'_b || q_b )``.

    The student saw ``m x + (1 - m) x'`` (mixup); ``q = softmax(z^s / T)`` is what it says of that, and p, p' are
    the teacher's ``softmax(z^t / T)`` of x and of x', from the store. Kevin J Liang et al., "MixKD: Towards
    Efficient Distillation of Large-scale Language Models", https://arxiv.org/abs/2011.00593. There the teacher
    sees the mixed input too; to mix its stored targets instead, as mixup mixes labels, is kdpipe's choice, which
    is exact for a teacher that is linear between samples, and so are T = 4 and T^2.

    Args:
        student_logits: (B, C) floating point, of the mixed inputs; half precision is computed in float32.
        teacher_logits: (B, C) floating point, of the first inputs; no gradient flows into it.
        partner_logits: (B, C) floating point, of the second inputs, such as those of a permuted batch.
        mixing: m, the share of the first input, from 0 to 1: a number, or (B,) one for each sample.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, shares outside 0..1 (looked for in numbers and CPU
            tensors), a temperature out of range.
    """
    check_logits("mixkd", student_logits, teacher_logits)
    check_logits("mixkd", student_logits, partner_logits)
    check_scale("mixkd", "temperature", temperature)
    share = _checked_share(mixing, student_logits)
    with full_precision(student_logits):
        log_student, log_first = log_softmaxes(student_logits, teacher_logits, temperature)
        _, log_second = log_softmaxes(student_logits, partner_logits, temperature)
        mixed = torch.logaddexp(log_first + share.log(), log_second + torch.log1p(-share))
        return temperature**2 * kl_divergence(mixed, log_student).mean()


@register
@dataclass(frozen=True, kw_only=True)
class MixKD(Loss):
    """`mixkd` as an entry of the registry; where inputs are not mixed it is `kd`."""

    name: ClassVar[str] = "mixkd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    mixes_targets: ClassVar[bool] = True

    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        own, partner = batch.need("logits", self.name), batch.partner_logits
        if partner is None:
            return kd(batch.student_logits, own, temperature=self.temperature)
        shares = batch.need("label_shares", self.name)
        return mixkd(batch.student_logits, own, partner, shares, temperature=self.temperature)


def _checked_share(mixing: Tensor | float, student_logits: Tensor) -> Tensor:
    """The first input's share, (B, 1) or (1, 1)."""
    if not isinstance(mixing, Tensor):
        if not (math.isfinite(mixing) and 0 <= mixing <= 1):
            raise UsageError(f"mixkd: mixing is {mixing}. Give the first input's share, from 0 to 1.")
        return student_logits.new_full((1, 1), mixing, dtype=compute_dtype(student_logits))
    if mixing.shape != student_logits.shape[:1] or not mixing.is_floating_point():
        raise UsageError(
            f"mixkd: mixing is {mixing.dtype} of shape {tuple(mixing.shape)}. Give a number, or one share per sample, "
            f"({len(student_logits)},)."
        )
    if mixing.device.type == "cpu" and not bool(((mixing >= 0) & (mixing <= 1)).all()):
        raise UsageError("mixkd: mixing holds shares outside 0..1. Give the first input's share of every sample.")
    return mixing.to(compute_dtype(student_logits)).unsqueeze(1)
