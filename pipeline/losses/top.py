"""What the losses share that learn from a teacher's best classes only."""

# Shapes: B batch, C classes, K kept classes, n classes of a set.

import torch
from torch import Tensor

from ...stores.errors import UsageError
from .numerics import check_class_ids, check_integers


def coarse_divergence(log_p: Tensor, log_q: Tensor, kept: Tensor) -> Tensor:
    """The divergence over the kept classes and one event more: that it is none of them.

    ``sum_kept p (log p - log q) + p_rest (log p_rest - log q_rest)``, ``p_rest = 1 - sum_kept p``

    By the log-sum inequality, ``sum a log(a / b) >= (sum a) log(sum a / sum b)``, this is at most ``KL(p || q)`` over
    all n classes, and equal to it where p and q spread the rest in the same proportions, or nothing is left out.
    Solomon Kullback, Richard Leibler, "On Information and Sufficiency", https://doi.org/10.1214/aoms/1177729694,
    theorem 4.1.

    Args:
        log_p: (B, n) log-probabilities at the kept classes; what it holds elsewhere is not read.
        log_q: (B, n) log-probabilities of all classes.
        kept: (B, n) bool.

    Returns:
        (B,).
    """
    log_p = torch.where(kept, log_p, 0)
    p = torch.where(kept, log_p.exp(), 0)
    known = (p * (log_p - log_q)).sum(1)
    missing = ~kept.all(1)
    # rounding may leave less than nothing
    rest = torch.where(missing, (1 - p.sum(1)).clamp_min(0), 0)
    # where nothing is missing nothing is masked, so that no gradient is NaN
    log_q_rest = log_q.masked_fill(kept & missing[:, None], -torch.inf).logsumexp(1)
    return known + torch.xlogy(rest, rest) - rest * log_q_rest


def scatter_top(top_classes: Tensor, top_scores: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The kept scores in their places (B, C), 0 elsewhere, and which classes are kept (B, C)."""
    classes = top_classes.long()
    scores = top_scores.new_zeros(len(classes), num_classes).scatter_(1, classes, top_scores)
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, classes, torch.ones_like(classes, dtype=torch.bool))
    return scores, kept


def check_top(where: str, student_logits: Tensor, top_classes: Tensor, top_logits: Tensor, sums: Tensor) -> None:
    """Kept classes and their logits must be (B, K) both, the classes ids below C (looked for in CPU tensors only).

    Args:
        where: the loss, for a message.
        student_logits: (B, C).
        top_classes: the kept classes.
        top_logits: their logits.
        sums: the logsumexps, (B, ...).

    Raises:
        UsageError: they are not.
    """
    check_integers(where, "top_classes", top_classes)
    batch, num_classes = student_logits.shape
    shape = tuple(top_classes.shape)
    if len(shape) != 2 or shape[0] != batch or not 1 <= shape[1] <= num_classes or top_logits.shape != shape:
        raise UsageError(
            f"{where}: top_classes has shape {shape}, top_logits {tuple(top_logits.shape)}, student_logits "
            f"{(batch, num_classes)}. Give (batch, kept classes), 1 to {num_classes} of them, to both."
        )
    if len(sums) != batch:
        raise UsageError(f"{where}: there are logsumexps for {len(sums)} samples, not for {batch}. Give those of each.")
    check_class_ids(where, "top_classes", top_classes, num_classes)
