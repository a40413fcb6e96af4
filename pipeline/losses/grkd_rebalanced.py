"""GRKD on the rebalanced teacher: its order after its bias between groups has been taken out."""

# Shapes: B batch, C classes, G groups.

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...stores.errors import unknown
from .grkd import REDUCTIONS, grkd
from .ltkd import checked_partition, log_group_masses
from .numerics import check_logits, check_scale, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


def grkd_rebalanced(
    student_logits: Tensor,
    teacher_logits: Tensor,
    class_groups: Tensor,
    group_mass: Tensor,
    *,
    temperature: float = 4.0,
    tau: float = 1.0,
    reduction: str = "pair_mean",
) -> Tensor:
    """GRKD (`grkd`) with the teacher's order taken from ``z^t_c / T - log S_{g(c)}``.

    S_g is the teacher's mass of group g over the whole store at temperature T. To divide each class's probability
    by its group's mass is what LTKD does to the teacher (https://arxiv.org/abs/2506.18496); here GRKD
    (https://arxiv.org/abs/2504.20482) learns the order that this gives. The order within a group stays the
    teacher's; between groups a tail class rises by ``log(S_head / S_tail)``, in units of logits over T. Equal
    masses give `grkd` itself. kdpipe's own; T = 4 as in LTKD.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point. Classes with equal rebalanced scores give no pair.
        class_groups: (C,) integer group of each class, from 0.
        group_mass: (G,) floating point, the teacher's group masses over the store at this temperature, up to a
            common factor.
        temperature: T, from 0.01 to 1000.
        tau: temperature of the student's differences, from 0.01 to 1000.
        reduction: as in `grkd`.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: as `grkd`; groups that leave a class out or are negative, too few group masses, or one not
            above 0 for a group that has classes.
    """
    check_logits("grkd-rebalanced", student_logits, teacher_logits)
    check_scale("grkd-rebalanced", "temperature", temperature)
    partition = checked_partition("grkd-rebalanced", class_groups, student_logits)
    log_group_masses("grkd-rebalanced", group_mass, partition)
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        log_mass = group_mass.log().index_select(0, class_groups.long()).to(dtype)
        rebalanced = teacher_logits.detach().to(dtype) / temperature - log_mass
    return grkd(student_logits, teacher_logits=rebalanced, tau=tau, reduction=reduction)


@register
@dataclass(frozen=True, kw_only=True)
class RebalancedGRKD(Loss):
    """`grkd_rebalanced` with the store's group masses, as an entry of the registry."""

    name: ClassVar[str] = "grkd-rebalanced"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    temperature: float = 4.0
    tau: float = 1.0
    reduction: str = "pair_mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "temperature", self.temperature)
        check_scale(self.name, "tau", self.tau)
        if self.reduction not in REDUCTIONS:
            raise unknown("reduction", self.reduction, REDUCTIONS)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return grkd_rebalanced(
            batch.student_logits,
            batch.need("logits", self.name),
            batch.need("class_groups", self.name),
            batch.mass(self.temperature, self.name).groups,
            temperature=self.temperature,
            tau=self.tau,
            reduction=self.reduction,
        )

    @property
    def mass_temperature(self) -> float | None:
        """The temperature of the store's masses."""
        return self.temperature
