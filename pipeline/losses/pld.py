"""PLD: the label first, then the teacher's order; each choice weighs what the teacher gives to it."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .listmle import choice_costs
from .numerics import check_labels, check_logits, check_scale, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


def pld(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Plackett-Luce distillation (PLD): ``(1/B) sum_b sum_k a_k [ logsumexp_{l >= k} z_{pi_l} - z_{pi_k} ]``.

    pi is the label, then the other classes by descending teacher logit; ``a_k = softmax(z^t / T)_{pi_k}``. Ejafa
    Bassam, Dawei Zhu, Kaigui Bian, "PLD: A Choice-Theoretic List-Wise Knowledge Distillation",
    https://arxiv.org/abs/2506.12542. It takes the place of cross-entropy, which it is for a = (1, 0, ...); with
    equal weights it is `listmle` of that order. T = 1 is kdpipe's choice.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it. Equal logits are ordered by class id.
        labels: (B,) integer class ids.
        temperature: T of the weights, from 0.01 to 1000; the student's logits are taken as they are.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, labels outside the classes (looked for in CPU tensors
            only), a temperature out of range.
    """
    check_logits("pld", student_logits, teacher_logits)
    check_labels("pld", labels, student_logits)
    check_scale("pld", "temperature", temperature)
    dtype = compute_dtype(student_logits)
    teacher_logits = teacher_logits.detach()
    with full_precision(student_logits):
        label_first = teacher_logits.scatter(1, labels.long().unsqueeze(1), torch.inf)
        order = label_first.argsort(dim=1, descending=True, stable=True)
        weights = (teacher_logits.to(dtype) / temperature).softmax(1).gather(1, order)
        return (weights * choice_costs(student_logits.to(dtype).gather(1, order))).sum(1).mean()


@register
@dataclass(frozen=True, kw_only=True)
class PLD(Loss):
    """`pld` as an entry of the registry."""

    name: ClassVar[str] = "pld"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    replaces_ce: ClassVar[bool] = True

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "temperature", self.temperature)

    @property
    def one_label(self) -> bool:
        """Whether it needs one label for every sample."""
        return True

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        teacher_logits, labels = batch.need("logits", self.name), batch.need("labels", self.name)
        return pld(batch.student_logits, teacher_logits, labels, temperature=self.temperature)
