"""ListMLE: the likelihood of the teacher's order under the student, choosing one class after the other."""

# Shapes: B batch, C classes, R ranks (R <= C).

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...stores.errors import UsageError
from .grkd import check_ranks, complete_order
from .numerics import check_logits, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


def listmle(
    student_logits: Tensor,
    *,
    ranks: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    depth: int | None = None,
) -> Tensor:
    """ListMLE: minus the Plackett-Luce log-likelihood of the teacher's order, batch mean.

    With pi the teacher's order of the classes, best first,

    ``L = sum_{k <= depth} [ logsumexp_{l >= k} z_{pi_l} - z_{pi_k} ]``

    Fen Xia, Tie-Yan Liu, Jue Wang, Wensheng Zhang, Hang Li, "Listwise Approach to Learning to Rank: Theory and
    Algorithm", ICML 2008, https://doi.org/10.1145/1390156.1390306. The whole order is the definition; a smaller
    depth is its top-k form, and 1 is cross-entropy with the teacher's best class. A sum over ranks, it grows
    like C log C: give it a small weight.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        ranks: (B, R) integer class ids, the teacher's best first, without repetition. With R < C the depth is
            R at most; the unranked classes are below all of them.
        teacher_logits: (B, C) floating point, instead of ``ranks``. Equal logits are ordered by class id.
        depth: how many ranks are summed, 1 or more; None for all.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: not exactly one of ``ranks`` and ``teacher_logits``, shapes or dtypes that do not match, ids
            outside 0..C-1 (looked for in CPU tensors only), a depth below 1.
    """
    check_logits("listmle", student_logits, teacher_logits)
    _check_depth(depth)
    num_classes = student_logits.shape[1]
    if teacher_logits is not None and ranks is None:
        num_ranks = num_classes
        order = teacher_logits.detach().argsort(dim=1, descending=True, stable=True)
    elif ranks is not None and teacher_logits is None:
        check_ranks("listmle", ranks, student_logits)
        num_ranks = ranks.shape[1]
        order = complete_order(ranks, num_classes)
    else:
        given = "neither" if ranks is None else "both"
        raise UsageError(f"listmle: {given} of ranks and teacher_logits given. Give exactly one of them.")
    with full_precision(student_logits):
        costs = choice_costs(student_logits.to(compute_dtype(student_logits)).gather(1, order))
        return costs[:, : num_ranks if depth is None else min(depth, num_ranks)].sum(1).mean()


def choice_costs(scores: Tensor) -> Tensor:
    """What each choice of an order costs: ``logsumexp_{l >= k} z_l - z_k`` for every place k of (B, C) scores."""
    return scores.flip(1).logcumsumexp(1).flip(1) - scores


def _check_depth(depth: int | None) -> None:
    if depth is not None and depth < 1:
        raise UsageError(f"listmle: depth is {depth}. Give 1 or more, or leave it out for all ranks.")


@register
@dataclass(frozen=True, kw_only=True)
class ListMLE(Loss):
    """`listmle` from the store's ranks, as an entry of the registry."""

    name: ClassVar[str] = "listmle"
    needs: ClassVar[frozenset[str]] = frozenset({"ranks"})

    depth: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_depth(self.depth)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return listmle(batch.student_logits, ranks=batch.need("ranks", self.name), depth=self.depth)
