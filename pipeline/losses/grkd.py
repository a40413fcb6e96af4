"""Group relative knowledge distillation: the student learns the teacher's order of the classes."""

# Shapes: B batch, C classes, R ranks (R <= C).
# "Sorted" means in the teacher's order, best first; classes a store left unranked come last.

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError, unknown
from .numerics import check_class_ids, check_integers, check_logits, check_scale, compute_dtype, full_precision
from .pairs import pair_losses
from .registry import Loss, LossInputs, register

REDUCTIONS = ("pair_mean", "sum")


def grkd(
    student_logits: Tensor,
    *,
    ranks: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    tau: float = 1.0,
    reduction: str = "pair_mean",
) -> Tensor:
    """Group relative knowledge distillation (GRKD): a penalty on every pair the student orders otherwise.

    With the teacher's pairs ``P(x) = { (i, j) : s_i > s_j }`` over all classes,

    ``L_GR(x) = - sum_P log sigma( (log q_i - log q_j) / tau ) = sum_P softplus( -(z_i - z_j) / tau )``

    because the normaliser of ``q = softmax(z)`` cancels. Chao Li, Changhua Zhou, Jia Chen, "Group Relative
    Knowledge Distillation: Learning from Teacher's Relational Inductive Bias",
    https://arxiv.org/abs/2504.20482v1, the definition of the group relative loss. ``sum`` is that formula;
    ``pair_mean``, which makes the scale independent of C, and tau = 1 are kdpipe's choices.

    Memory is O(B C); the (B, C, C) tensor of pairs is never made. There is no second derivative
    (``create_graph=True`` is refused).

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        ranks: (B, R) integer class ids, the teacher's best first, without repetition. With R < C the pairs
            are those among the ranked classes, and each ranked class above every unranked one.
        teacher_logits: (B, C) floating point, instead of ``ranks``. Classes with equal logits give no pair.
        tau: temperature of the student's differences, from 0.01 to 1000.
        reduction: ``sum`` over pairs, or ``pair_mean``: also divided by each sample's number of pairs (a
            sample without pairs counts as 0). Both are means over the batch.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: not exactly one of ``ranks`` and ``teacher_logits``, shapes or dtypes that do not match,
            ids outside 0..C-1 (looked for in CPU tensors only), tau out of range, an unknown reduction.
    """
    check_logits("grkd", student_logits, teacher_logits)
    check_scale("grkd", "tau", tau)
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    num_classes = student_logits.shape[1]
    if teacher_logits is not None and ranks is None:
        num_above = num_classes
        order, ties = order_with_ties(teacher_logits)
    elif ranks is not None and teacher_logits is None:
        check_ranks("grkd", ranks, student_logits)
        num_above = ranks.shape[1]
        order, ties = complete_order(ranks, num_classes), None
    else:
        given = "neither" if ranks is None else "both"
        raise UsageError(f"grkd: {given} of ranks and teacher_logits given. Give exactly one of them.")

    with full_precision(student_logits):
        scores = student_logits.to(compute_dtype(student_logits)) / tau
        wanted = scores.requires_grad and torch.is_grad_enabled()
        losses, _ = pair_losses(scores.gather(1, order), num_above, ties, wanted)
        if reduction == "pair_mean":
            losses = losses / _num_pairs(num_classes, num_above, ties).to(losses).clamp_min(1)
        return losses.mean()


def order_with_ties(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the classes by the teacher's logits and mark the runs of equal ones.

    Args:
        teacher_logits: (B, C) floating point; compared as given, before any rounding.

    Returns:
        order: (B, C) int64 class ids, best first.
        ties: (B, C) int64, for each sorted place, how many places before it hold the same logit. A sample's
            ties add up to its number of tied pairs.
    """
    teacher_sorted, order = teacher_logits.detach().sort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    starts = torch.zeros_like(order)
    starts[:, 1:] = torch.where(teacher_sorted[:, 1:] != teacher_sorted[:, :-1], places[:, 1:], 0)
    return order, places - starts.cummax(dim=1).values


def complete_order(ranks: Tensor, num_classes: int) -> Tensor:
    """Every class in the teacher's order: the ranked ones, then the unranked ones by class id.

    Args:
        ranks: (B, R) integer class ids, best first.
        num_classes: C.

    Returns:
        (B, C) int64.
    """
    ranks = ranks.long()
    if ranks.shape[1] == num_classes:
        return ranks
    places = torch.arange(ranks.shape[1], device=ranks.device).expand_as(ranks)
    place_of_class = ranks.new_full((ranks.shape[0], num_classes), ranks.shape[1]).scatter_(1, ranks, places)
    return place_of_class.argsort(dim=1, stable=True)


def label_pair_conflict(ranks_or_logits: Tensor, labels: Tensor) -> Tensor:
    """How far the teacher's order contradicts the labels: the classes it ranks above the true one.

    A teacher that ranks the true class r-th imposes r - 1 pairs against the label. Log it beside `grkd`.

    Args:
        ranks_or_logits: the teacher's (B, R) integer class ids, best first, or (B, C) floating-point logits.
            A true class below the R ranked ones counts R, the least it can be.
        labels: (B,) integer class ids.

    Returns:
        A float32 scalar: the mean over the batch.

    Raises:
        UsageError: wrong shapes, or labels that are not integers.
    """
    check_integers("label_pair_conflict", "labels", labels)
    if ranks_or_logits.ndim != 2 or 0 in ranks_or_logits.shape or labels.shape != ranks_or_logits.shape[:1]:
        raise UsageError(
            f"label_pair_conflict: shapes {tuple(ranks_or_logits.shape)} and {tuple(labels.shape)}. "
            "Give (batch, ranks or classes) and one label per sample."
        )
    labels = labels.long().unsqueeze(1)
    if ranks_or_logits.is_floating_point():
        above = (ranks_or_logits > ranks_or_logits.gather(1, labels)).sum(1)
    else:
        above = (ranks_or_logits.long() == labels).int().cummax(dim=1).values.logical_not().sum(1)
    return above.float().mean()


def _num_pairs(num_classes: int, num_above: int, ties: Tensor | None) -> Tensor:
    """The pairs of each sample: (B,), or () where all samples have as many."""
    num_pairs = torch.tensor(num_above * (2 * num_classes - num_above - 1) // 2)
    return num_pairs if ties is None else num_pairs - ties.sum(1)


def check_ranks(where: str, ranks: Tensor, student_logits: Tensor) -> None:
    """Integer (B, R) with 1 <= R <= C, of ids within the classes (looked for in CPU tensors only).

    Raises:
        UsageError: they are not that.
    """
    check_integers(where, "ranks", ranks)
    batch, num_classes = student_logits.shape
    if ranks.ndim != 2 or ranks.shape[0] != batch or not 1 <= ranks.shape[1] <= num_classes:
        raise UsageError(
            f"{where}: ranks has shape {tuple(ranks.shape)} for student_logits of shape "
            f"{(batch, num_classes)}. Give (batch, ranks) with 1 to {num_classes} ranks."
        )
    check_class_ids(where, "ranks", ranks, num_classes)


@register
@dataclass(frozen=True, kw_only=True)
class GRKD(Loss):
    """`grkd` from the store's ranks, as an entry of the registry."""

    name: ClassVar[str] = "grkd"
    needs: ClassVar[frozenset[str]] = frozenset({"ranks"})

    tau: float = 1.0
    reduction: str = "pair_mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "tau", self.tau)
        if self.reduction not in REDUCTIONS:
            raise unknown("reduction", self.reduction, REDUCTIONS)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        ranks = batch.need("ranks", self.name)
        return grkd(batch.student_logits, ranks=ranks, tau=self.tau, reduction=self.reduction)
