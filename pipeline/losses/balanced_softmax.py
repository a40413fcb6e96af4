"""Balanced softmax: cross-entropy under the training data's class frequencies; no teacher."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .logit_adjustment import adjusted_cross_entropy
from .registry import Loss, LossInputs, register


def balanced_softmax(student_logits: Tensor, labels: Tensor, class_counts: Tensor) -> Tensor:
    """Balanced softmax: ``- (1/B) sum_b log softmax( z_b + log n )[y_b]``, n_c the training samples of class c.

    What the student predicts is argmax z. Jiawei Ren, Cunjun Yu, Shunan Sheng, Xiao Ma, Haiyu Zhao, Shuai Yi,
    Hongsheng Li, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", https://arxiv.org/abs/2007.10740. It
    is `logit_adjustment` with tau = 1; the two papers found it at the same time.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        labels: (B,) integer class ids.
        class_counts: (C,) training samples of each class; a class without any counts as one sample, which is
            kdpipe's choice (the formula's logarithm would be infinite).

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, labels outside the classes (looked for in CPU tensors
            only), negative counts.
    """
    return adjusted_cross_entropy("balanced-softmax", student_logits, labels, class_counts, 1.0)


@register
@dataclass(frozen=True, kw_only=True)
class BalancedSoftmax(Loss):
    """`balanced_softmax` as an entry of the registry."""

    name: ClassVar[str] = "balanced-softmax"
    replaces_ce: ClassVar[bool] = True

    @property
    def one_label(self) -> bool:
        """Whether it needs one label for every sample."""
        return True

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        labels, class_counts = batch.need("labels", self.name), batch.need("class_counts", self.name)
        return balanced_softmax(batch.student_logits, labels, class_counts)
