"""Comparative knowledge distillation: the student tells samples apart as the teacher does."""

# Shapes: B batch, C classes, S sets of samples (S = B // size).

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...stores.errors import UsageError
from .numerics import check_labels, check_logits, check_weight, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


def ckd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, size: int = 2, class_weight: float = 1.0
) -> Tensor:
    """Comparative knowledge distillation (CKD): mean squared errors of differences between sets of samples.

    ``MSE(zbar^s_A - zbar^s_B, zbar^t_A - zbar^t_B) + class_weight MSE(zbar^s_A - zbar^s_B, ybar_A - ybar_B)``

    over disjoint sets A, B of ``size`` samples; zbar is the mean of a set's logits (no softmax, no temperature),
    ybar that of its one-hot labels; MSE is the mean over the pairs and the classes. Alex Wilf et al.,
    "Comparative Knowledge Distillation", https://arxiv.org/abs/2311.02253. Sizes of 2 and 3 and both weights are
    those of the authors' code, which has no cross-entropy: the second term is what the labels teach.

    Which sets are compared is kdpipe's choice: the batch, whose order is random, is cut into sets, and each is
    compared with the next, the last with the first. (The authors draw a fixed list of sets beforehand.) What is
    left over of the batch plays no part. The loss depends on the batch's composition.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        labels: (B,) integer class ids.
        size: samples of a set, 1 or more; the batch must hold two sets.
        class_weight: weight of the second term, 0 or above.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, labels outside the classes (looked for in CPU tensors
            only), a size below 1, a batch of fewer than two sets, a negative weight.
    """
    check_logits("ckd", student_logits, teacher_logits)
    check_labels("ckd", labels, student_logits)
    _check_size(size)
    check_weight("ckd", "class_weight", class_weight)
    batch, num_classes = student_logits.shape
    if batch < 2 * size:
        raise UsageError(f"ckd: the batch holds {batch} samples. Two sets of size {size} need {2 * size}.")
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        student = _differences(student_logits.to(dtype), size)
        teacher = _differences(teacher_logits.detach().to(dtype), size)
        truth = _differences(F.one_hot(labels.long(), num_classes).to(dtype), size)
        return F.mse_loss(student, teacher) + class_weight * F.mse_loss(student, truth)


def _differences(values: Tensor, size: int) -> Tensor:
    """The mean of each set less that of the next, (S, C)."""
    num_sets = len(values) // size
    means = values[: num_sets * size].view(num_sets, size, -1).mean(1)
    return means - means.roll(-1, 0)


def _check_size(size: int) -> None:
    if size < 1:
        raise UsageError(f"ckd: size is {size}. Give 1 or more.")


@register
@dataclass(frozen=True, kw_only=True)
class CKD(Loss):
    """`ckd` as an entry of the registry."""

    name: ClassVar[str] = "ckd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    replaces_ce: ClassVar[bool] = True

    size: int = 2
    class_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size(self.size)
        check_weight(self.name, "class_weight", self.class_weight)

    @property
    def one_label(self) -> bool:
        """Whether it needs one label for every sample."""
        return True

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return ckd(
            batch.student_logits,
            batch.need("logits", self.name),
            batch.need("labels", self.name),
            size=self.size,
            class_weight=self.class_weight,
        )
