"""RLKD: the student ranks the classes as the teacher does, where either of them looks."""

# Shapes: B batch, C classes, U classes that either net may have among its best k (U = min(2 k, C)).

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError
from .correlation import pearson, soft_ranks
from .numerics import check_logits, check_scale, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


def rlkd(student_logits: Tensor, teacher_logits: Tensor, *, k: int = 5, strength: float = 1.0) -> Tensor:
    """The ranking loss of RLKD: ``1 - (1/B) sum_b rho( r(z^s_U), r(z^t_U) )``.

    U is the union of both nets' k best classes of the sample, r the soft ranks (`soft_ranks`) of the logits
    among U, rho Pearson's correlation: Spearman's of the ranks, made differentiable. Tianyu Peng,
    Jiajun Zhang, "Enhancing Knowledge Distillation of Large Language Models through Efficient Multi-Modal
    Distribution Alignment", https://arxiv.org/abs/2409.12545. k = 5 is that of the authors' demonstration, whose
    objective is this loss plus a divergence over m = 2: give ``kd,temperature=1,weight=0.5`` beside it. The
    strength is that of the library they use where nothing else is said.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        k: how many of each net's best classes, 1 or more; C where there are fewer.
        strength: of the soft ranks, in units of the logits, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, k below 1, a strength out of range.
    """
    check_logits("rlkd", student_logits, teacher_logits)
    _check_k(k)
    check_scale("rlkd", "strength", strength)
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        student, teacher = student_logits.to(dtype), teacher_logits.detach().to(dtype)
        best = min(k, student.shape[1])
        chosen = torch.zeros_like(teacher)
        for logits in (student.detach(), teacher):
            chosen.scatter_(1, logits.topk(best, dim=1).indices, 1.0)
        chosen, classes = chosen.topk(min(2 * best, student.shape[1]), dim=1)
        ranks = (_ranks_among(logits.gather(1, classes), chosen, strength) for logits in (student, teacher))
        return 1 - pearson(*ranks, dim=1, where=chosen).mean()


def _ranks_among(scores: Tensor, chosen: Tensor, strength: float) -> Tensor:
    """Soft ranks among the chosen scores; (B, U) each, ``chosen`` 1 or 0.

    The others are put so far below, more than U strengths, that they cannot be pooled with the chosen, whose ranks
    they shift by one constant, which the correlation does not see.
    """
    lowest = scores.detach().masked_fill(chosen == 0, torch.inf).amin(1, keepdim=True)
    below = lowest - strength * (scores.shape[1] + 2 * (1 - chosen).cumsum(1))
    return soft_ranks(torch.where(chosen == 1, scores, below), strength)


def _check_k(k: int) -> None:
    if k < 1:
        raise UsageError(f"rlkd: k is {k}. Give 1 or more.")


@register
@dataclass(frozen=True, kw_only=True)
class RLKD(Loss):
    """`rlkd` as an entry of the registry."""

    name: ClassVar[str] = "rlkd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    k: int = 5
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_k(self.k)
        check_scale(self.name, "strength", self.strength)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return rlkd(batch.student_logits, batch.need("logits", self.name), k=self.k, strength=self.strength)
