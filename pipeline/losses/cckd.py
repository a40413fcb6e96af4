"""Class-calibrated KD: the teacher's bias towards some classes, measured over the store, is taken out."""

# Shapes: B batch, C classes.

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .numerics import check_logits, check_scale, full_precision, kl_divergence, log_class_mass, log_softmaxes
from .registry import Loss, LossInputs, register


def cckd(student_logits: Tensor, teacher_logits: Tensor, class_mass: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Class-calibrated knowledge distillation: ``T^2 (1/B) sum_b KL( phat_b || q_b )``.

    ``phat_c = (p_c / m_c) / sum_k (p_k / m_k)`` with ``p = softmax(z^t / T)``, ``q = softmax(z^s / T)`` and m_c the
    mean of p_c over the whole store. A teacher that on average gives every class the same is left as it is:
    equal masses make it `kd`.

    kdpipe's own. It is what LTKD's cross-group part (https://arxiv.org/abs/2506.18496) does to groups, done to
    single classes and over the data set instead of the batch; `bkd` (https://arxiv.org/abs/2104.10510) divides by
    a function of the training counts where this divides by what the teacher has made of them. T = 4 as in KD.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        class_mass: (C,) floating point, m up to a common factor, at the same temperature.
        temperature: T, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, a temperature out of range, a mass not above 0.
    """
    check_logits("cckd", student_logits, teacher_logits)
    check_scale("cckd", "temperature", temperature)
    log_mass = log_class_mass("cckd", class_mass, student_logits)
    with full_precision(student_logits):
        log_student, log_teacher = log_softmaxes(student_logits, teacher_logits, temperature)
        return temperature**2 * kl_divergence((log_teacher - log_mass).log_softmax(1), log_student).mean()


@register
@dataclass(frozen=True, kw_only=True)
class CCKD(Loss):
    """`cckd` with the store's class masses, as an entry of the registry."""

    name: ClassVar[str] = "cckd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        teacher_logits = batch.need("logits", self.name)
        class_mass = batch.mass(self.temperature, self.name).classes
        return cckd(batch.student_logits, teacher_logits, class_mass, temperature=self.temperature)

    @property
    def mass_temperature(self) -> float | None:
        """The temperature of the store's masses."""
        return self.temperature
