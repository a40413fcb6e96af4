"""Classic knowledge distillation."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .numerics import check_logits, check_positive, compute_dtype, full_precision, kl_divergence
from .registry import Loss, LossInputs, register


def kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation: the divergence of the student's softened softmax from the teacher's.

    ``T^2 (1/B) sum_b KL( softmax(z^t_b / T) || softmax(z^s_b / T) )``

    T^2 keeps the gradient's scale when T changes. Geoffrey Hinton, Oriol Vinyals, Jeff Dean, "Distilling the
    Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531, section 2. The default T = 4 is
    kdpipe's choice.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        temperature: T, above 0.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, or a temperature not above 0.
    """
    check_logits("kd", student_logits, teacher_logits)
    check_positive("kd", "temperature", temperature)
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        log_student = (student_logits.to(dtype) / temperature).log_softmax(1)
        log_teacher = (teacher_logits.detach().to(dtype) / temperature).log_softmax(1)
        return temperature**2 * kl_divergence(log_teacher, log_student).mean()


@register
@dataclass(frozen=True, kw_only=True)
class KD(Loss):
    """`kd` as an entry of the registry."""

    name: ClassVar[str] = "kd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return kd(batch.student_logits, batch.need("logits", self.name), temperature=self.temperature)
