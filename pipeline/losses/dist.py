"""DIST: the student's probabilities correlate with the teacher's, in each sample and in each class."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .correlation import pearson
from .numerics import check_logits, check_scale, check_weight, full_precision, log_softmaxes
from .registry import Loss, LossInputs, register


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """DIST: ``T^2 [ beta (1 - mean_b rho(q_b, p_b)) + gamma (1 - mean_c rho(q_{:,c}, p_{:,c})) ]``.

    With ``p = softmax(z^t / T)``, ``q = softmax(z^s / T)`` and Pearson's correlation rho: over the classes of
    each sample (inter-class), and over the samples of each class, the batch's columns (intra-class).

    Tao Huang, Shan You, Fei Wang, Chen Qian, Chang Xu, "Knowledge Distillation from A Stronger Teacher",
    https://arxiv.org/abs/2205.10536, section 4. T^2, the 1e-8 in the denominator of rho and the defaults are
    those of the authors' code. The loss depends on the batch's composition.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        beta: factor of the inter-class part, 0 or above.
        gamma: factor of the intra-class part, 0 or above.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, a temperature out of range, a negative factor.
    """
    check_logits("dist", student_logits, teacher_logits)
    check_weight("dist", "beta", beta)
    check_weight("dist", "gamma", gamma)
    check_scale("dist", "temperature", temperature)
    with full_precision(student_logits):
        log_student, log_teacher = log_softmaxes(student_logits, teacher_logits, temperature)
        student, teacher = log_student.exp(), log_teacher.exp()
        inter = 1 - pearson(student, teacher, dim=1).mean()
        intra = 1 - pearson(student, teacher, dim=0).mean()
        return temperature**2 * (beta * inter + gamma * intra)


@register
@dataclass(frozen=True, kw_only=True)
class DIST(Loss):
    """`dist` as an entry of the registry."""

    name: ClassVar[str] = "dist"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight(self.name, "beta", self.beta)
        check_weight(self.name, "gamma", self.gamma)
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return dist(
            batch.student_logits,
            batch.need("logits", self.name),
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
        )
