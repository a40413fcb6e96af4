"""Cross-entropy with the labels."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...stores.errors import UsageError
from .numerics import check_integers, check_logits, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


@register
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """``-log softmax(z)[y]``, batch mean; computed in float32 or better."""

    name: ClassVar[str] = "ce"

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        student_logits, labels = batch.student_logits, batch.labels
        check_logits(self.name, student_logits)
        check_integers(self.name, "labels", labels)
        if labels.shape != student_logits.shape[:1]:
            raise UsageError(
                f"{self.name}: labels has shape {tuple(labels.shape)} for student_logits of shape "
                f"{tuple(student_logits.shape)}. Give one class id per sample."
            )
        with full_precision(student_logits):
            return F.cross_entropy(student_logits.to(compute_dtype(student_logits)), labels.long())
