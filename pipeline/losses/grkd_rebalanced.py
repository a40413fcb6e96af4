"""GRKD on the rebalanced teacher: its order after its bias between groups has been taken out."""

# Shapes: B batch, C classes, G groups.

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...stores.errors import UsageError, unknown
from .grkd import REDUCTIONS, grkd
from .numerics import (
    check_integers,
    check_logits,
    check_per_class,
    check_positive,
    check_scale,
    compute_dtype,
    full_precision,
    remember,
)
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
    log_mass = _log_mass(class_groups, group_mass, student_logits)
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        rebalanced = teacher_logits.detach().to(dtype) / temperature - log_mass.to(dtype)
    return grkd(student_logits, teacher_logits=rebalanced, tau=tau, reduction=reduction)


def _log_mass(class_groups: Tensor, group_mass: Tensor, student_logits: Tensor) -> Tensor:
    """The logarithm of the mass of each class's group, (C,)."""
    check_integers("grkd-rebalanced", "class_groups", class_groups)
    check_per_class("grkd-rebalanced", "class_groups", class_groups, student_logits)
    groups = _groups(class_groups)
    if group_mass.ndim != 1 or groups[0] < 0 or groups[-1] >= len(group_mass):
        raise UsageError(
            f"grkd-rebalanced: class_groups holds groups from {groups[0]} to {groups[-1]}, group_mass has shape "
            f"{tuple(group_mass.shape)}. Give every class a group, from 0, and every group a mass, (groups,)."
        )
    masses = _numbers(group_mass)
    for group in groups:
        check_positive("grkd-rebalanced", f"group_mass[{group}]", masses[group])
    return group_mass.log().index_select(0, class_groups.long())


@remember
def _groups(class_groups: Tensor) -> tuple[int, ...]:
    """The groups that have classes, ascending."""
    return tuple(class_groups.long().unique().tolist())


@remember
def _numbers(group_mass: Tensor) -> tuple[float, ...]:
    return tuple(group_mass.tolist())


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
