"""Classic knowledge distillation."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .divergence import group_divergence, is_compiled_for
from .numerics import check_logits, check_scale, compute_dtype, full_precision, kl_divergence, log_softmaxes
from .registry import Loss, LossInputs, register
from .top import check_top, coarse_divergence, scatter_top


def kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Knowledge distillation: the divergence of the student's softened softmax from the teacher's.

    ``T^2 (1/B) sum_b KL( softmax(z^t_b / T) || softmax(z^s_b / T) )``

    T^2 keeps the gradient's scale when T changes. Geoffrey Hinton, Oriol Vinyals, Jeff Dean, "Distilling the
    Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531, section 2. The default T = 4 is
    kdpipe's choice.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, or a temperature out of range.
    """
    check_logits("kd", student_logits, teacher_logits)
    check_scale("kd", "temperature", temperature)
    if is_compiled_for(student_logits):
        sizes = [student_logits.shape[1]]
        return group_divergence(student_logits, teacher_logits, sizes, None, 0.0, 1.0, temperature)
    with full_precision(student_logits):
        log_student, log_teacher = log_softmaxes(student_logits, teacher_logits, temperature)
        return temperature**2 * kl_divergence(log_teacher, log_student).mean()


def kd_top(
    student_logits: Tensor, top_classes: Tensor, top_logits: Tensor, logsumexp: Tensor, *, temperature: float = 4.0
) -> Tensor:
    """`kd` from the teacher's best K classes: all others are one event, whose mass is known exactly.

    ``T^2 (1/B) sum_b [ sum_kept p^t log(p^t / p^s) + p^t_rest log(p^t_rest / p^s_rest) ]``, ``p = softmax(z / T)``

    A lower bound of `kd`, by the log-sum inequality, and equal to it with K = C; see
    :func:`.top.coarse_divergence`. The student is never told how the rest is spread.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        top_classes: (B, K) integer class ids, without repetition.
        top_logits: (B, K) floating point, the teacher's logits of these.
        logsumexp: (B,) of the teacher's ``z / T`` over all C classes.
        temperature: T, from 0.01 to 1000: the one of ``logsumexp``.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, ids outside 0..C-1 (looked for in CPU tensors only), or a
            temperature out of range.
    """
    check_logits("kd_top", student_logits)
    check_top("kd_top", student_logits, top_classes, top_logits, logsumexp)
    check_scale("kd_top", "temperature", temperature)
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        scores, kept = scatter_top(top_classes, top_logits.detach().to(dtype) / temperature, student_logits.shape[1])
        log_student = (student_logits.to(dtype) / temperature).log_softmax(1)
        log_teacher = scores - logsumexp.detach().to(dtype)[:, None]
        return temperature**2 * coarse_divergence(log_teacher, log_student, kept).mean()


@register
@dataclass(frozen=True, kw_only=True)
class KD(Loss):
    """`kd` as an entry of the registry."""

    name: ClassVar[str] = "kd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        if batch.has_top_only:
            total = batch.at_temperature("logsumexp", self.temperature, self.name)[:, 0]
            classes, logits = batch.need("top_classes", self.name), batch.need("top_logits", self.name)
            return kd_top(batch.student_logits, classes, logits, total, temperature=self.temperature)
        return kd(batch.student_logits, batch.need("logits", self.name), temperature=self.temperature)

    @property
    def top_temperature(self) -> float | None:
        """The temperature of the logsumexp that `kd_top` takes."""
        return self.temperature
