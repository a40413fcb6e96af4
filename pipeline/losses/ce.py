"""Cross-entropy with the labels."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .numerics import check_labels, check_logits, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


@register
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """``-log softmax(z)[y]``, batch mean; computed in float32 or better."""

    name: ClassVar[str] = "ce"
    replaces_ce: ClassVar[bool] = True

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        student_logits, labels = batch.student_logits, batch.need("labels", self.name)
        check_logits(self.name, student_logits)
        check_labels(self.name, labels, student_logits)
        with full_precision(student_logits):
            return F.cross_entropy(student_logits.to(compute_dtype(student_logits)), labels.long())
