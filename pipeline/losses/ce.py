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
    """``-log softmax(z)[y]``, batch mean; computed in float32 or better.

    Of an input that is mixed of two samples, ``m`` of the first and ``1 - m`` of the second, it is
    ``-m log softmax(z)[y] - (1 - m) log softmax(z)[y']``: Hongyi Zhang et al., "mixup: Beyond Empirical Risk
    Minimization", https://arxiv.org/abs/1710.09412, section 2.
    """

    name: ClassVar[str] = "ce"
    replaces_ce: ClassVar[bool] = True

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        check_logits(self.name, batch.student_logits)
        if batch.mixed_labels is None:
            return self._of(batch.student_logits, batch.need("labels", self.name), "mean")
        first, second = (self._of(batch.student_logits, labels, "none") for labels in batch.mixed_labels.unbind(1))
        shares = batch.need("label_shares", self.name).to(first.dtype)
        return (shares * first + (1 - shares) * second).mean()

    def _of(self, student_logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        check_labels(self.name, labels, student_logits)
        with full_precision(student_logits):
            logits = student_logits.to(compute_dtype(student_logits))
            return F.cross_entropy(logits, labels.long(), reduction=reduction)
