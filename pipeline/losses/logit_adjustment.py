"""Logit adjustment: cross-entropy that knows how frequent the classes are; no teacher."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .numerics import at_least_one, check_labels, check_logits, check_weight, full_precision
from .registry import Loss, LossInputs, register


def logit_adjustment(student_logits: Tensor, labels: Tensor, class_counts: Tensor, *, tau: float = 1.0) -> Tensor:
    """Logit-adjusted cross-entropy: ``- (1/B) sum_b log softmax( z_b + tau log pi )[y_b]``.

    pi_c is the share of class c in the training data. The adjustment is for training alone: what the student
    predicts is argmax z. Aditya Krishna Menon, Sadeep Jayasumana, Ankit Singh Rawat, Himanshu Jain, Andreas Veit,
    Sanjiv Kumar, "Long-tail learning via logit adjustment", https://arxiv.org/abs/2007.07314, the logit adjusted
    softmax cross-entropy; tau = 1 is the authors' default. tau = 0 is cross-entropy.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        labels: (B,) integer class ids.
        class_counts: (C,) training samples of each class; a class without any counts as one sample, which is
            kdpipe's choice (the formula's logarithm would be infinite).
        tau: strength of the adjustment, 0 or above.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, labels outside the classes (looked for in CPU tensors
            only), negative counts, a negative tau.
    """
    check_weight("logit-adjustment", "tau", tau)
    return adjusted_cross_entropy("logit-adjustment", student_logits, labels, class_counts, tau)


def adjusted_cross_entropy(
    where: str, student_logits: Tensor, labels: Tensor, class_counts: Tensor, tau: float
) -> Tensor:
    """``CE(z + tau log n, y)``: the sum of n is a constant, which the softmax does not see."""
    check_logits(where, student_logits)
    check_labels(where, labels, student_logits)
    log_counts = at_least_one(where, class_counts, student_logits).log()
    with full_precision(student_logits):
        return F.cross_entropy(student_logits.to(log_counts.dtype) + tau * log_counts, labels.long())


@register
@dataclass(frozen=True, kw_only=True)
class LogitAdjustment(Loss):
    """`logit_adjustment` as an entry of the registry."""

    name: ClassVar[str] = "logit-adjustment"
    replaces_ce: ClassVar[bool] = True

    tau: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight(self.name, "tau", self.tau)

    @property
    def one_label(self) -> bool:
        """Whether it needs one label for every sample."""
        return True

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        labels, class_counts = batch.need("labels", self.name), batch.need("class_counts", self.name)
        return logit_adjustment(batch.student_logits, labels, class_counts, tau=self.tau)
