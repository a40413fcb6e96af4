"""Long-tail knowledge distillation: the teacher's bias between groups of classes is evened out."""

# Shapes: B batch, C classes, G groups, P groups that hold at least one class (P <= G).

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError, unknown
from .divergence import group_divergence, is_compiled_for
from .numerics import (
    check_integers,
    check_logits,
    check_positive,
    check_scale,
    check_weight,
    compute_dtype,
    full_precision,
    kl_divergence,
    remember,
)
from .registry import Loss, LossInputs, register
from .top import check_top, coarse_divergence, scatter_top

CALIBRATIONS = ("batch", "store")


def ltkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    class_groups: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    temperature: float = 4.0,
    group_mass: Tensor | None = None,
) -> Tensor:
    """Long-tail knowledge distillation (LTKD): ``T^2 [ alpha L_cross + beta L_within ]``.

    With ``p = softmax(z / T)``, the group mass ``p_G = sum_{i in G} p_i`` and ``ptilde_{G,i} = p_i / p_G``,

    ``phat_{b,G} = s_G p^t_{b,G} / sum_G' s_G' p^t_{b,G'}``, ``s_G = (B / G) / S_G``, ``S_G = sum_b p^t_{b,G}``

    ``L_cross = (1/B) sum_b KL( phat_b || p^s_{b,.} )``, over the groups

    ``L_within = (1/B) sum_b sum_G KL( ptilde^t_{b,G} || ptilde^s_{b,G} )``

    Seonghak Kim, "Distilling Balanced Knowledge from a Biased Teacher" (v1: "Biased Teacher, Balanced
    Student"), https://arxiv.org/abs/2506.18496, the rebalanced cross-group and the reweighted within-group
    loss. T = 4, alpha = beta = 1 and the sum over groups are kdpipe's choices. Cross-entropy is not included.
    The batch's S_G makes the loss depend on the batch's composition; at B = 1, phat is uniform.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        class_groups: (C,) integer group of each class, from 0. A group without classes plays no part.
        alpha: factor of the cross-group loss, 0 or above.
        beta: factor of the within-group loss, 0 or above.
        temperature: T, from 0.01 to 1000.
        group_mass: (G,) floating point, takes the place of the batch's S_G, up to a common factor: such as
            the sum of `group_masses` over a store, at the same temperature.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, negative groups, a temperature out of range, a
            negative alpha or beta, too few group masses, or one not above 0 for a group that has classes.
    """
    check_logits("ltkd", student_logits, teacher_logits)
    check_scale("ltkd", "temperature", temperature)
    check_weight("ltkd", "alpha", alpha)
    check_weight("ltkd", "beta", beta)
    partition = checked_partition("ltkd", class_groups, student_logits)
    if is_compiled_for(student_logits):
        log_mass = None if group_mass is None else log_group_masses("ltkd", group_mass, partition)
        both = (partition.arrange(student_logits), partition.arrange(teacher_logits))
        return group_divergence(*both, list(partition.sizes), log_mass, alpha, beta, temperature)
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        terms = decompose(
            student_logits.to(dtype) / temperature, teacher_logits.detach().to(dtype) / temperature, partition
        )
        return temperature**2 * _balanced(terms, partition, alpha, beta, group_mass)


def ltkd_top(
    student_logits: Tensor,
    top_classes: Tensor,
    top_logits: Tensor,
    group_logsumexp: Tensor,
    class_groups: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    temperature: float = 4.0,
    group_mass: Tensor | None = None,
) -> Tensor:
    """`ltkd` from the teacher's best K classes: ``T^2 [ alpha L_cross + beta L'_within ]``.

    The groups' masses, and so the cross-group loss, are exact. Within a group the classes that are not kept are one
    event, whose mass is known exactly: each group's divergence is a lower bound, by the log-sum inequality, see
    :func:`.top.coarse_divergence`; 0 for a group of which nothing is kept. With K = C it is `ltkd`.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        top_classes: (B, K) integer class ids, without repetition.
        top_logits: (B, K) floating point, the teacher's logits of these.
        group_logsumexp: (B, G) of the teacher's ``z / T`` over the classes of each group.
        class_groups: (C,) integer group of each class, from 0.
        alpha: factor of the cross-group loss, 0 or above.
        beta: factor of the within-group loss, 0 or above.
        temperature: T, from 0.01 to 1000: the one of ``group_logsumexp``.
        group_mass: (G,) floating point, as of `ltkd`.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: as `ltkd`, and for kept classes as :func:`.kd.kd_top`.
    """
    check_logits("ltkd_top", student_logits)
    check_top("ltkd_top", student_logits, top_classes, top_logits, group_logsumexp)
    check_scale("ltkd_top", "temperature", temperature)
    check_weight("ltkd_top", "alpha", alpha)
    check_weight("ltkd_top", "beta", beta)
    partition = checked_partition("ltkd_top", class_groups, student_logits)
    if group_logsumexp.ndim != 2 or group_logsumexp.shape[1] < partition.num_groups:
        raise UsageError(
            f"ltkd_top: group_logsumexp has shape {tuple(group_logsumexp.shape)} for {partition.num_groups} groups. "
            "Give (batch, groups)."
        )
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        scores, kept = scatter_top(top_classes, top_logits.detach().to(dtype) / temperature, student_logits.shape[1])
        masses = torch.stack([group_logsumexp[:, group] for group in partition.groups], dim=1).detach().to(dtype)
        terms = decompose_top(student_logits.to(dtype) / temperature, scores, kept, masses, partition)
        return temperature**2 * _balanced(terms, partition, alpha, beta, group_mass)


@dataclass(frozen=True)
class Partition:
    """The classes group by group.

    Attributes:
        order: (C,) int64 class ids, those of one group side by side.
        sizes: the number of classes of each group that has any, P numbers.
        groups: the ids of those groups, ascending.
        is_arranged: whether the classes are in that order already.
    """

    order: Tensor
    sizes: tuple[int, ...]
    groups: tuple[int, ...]
    is_arranged: bool

    @property
    def num_groups(self) -> int:
        """G: one more than the highest group id."""
        return self.groups[-1] + 1

    def arrange(self, values: Tensor) -> Tensor:
        """The columns of (B, C) group by group."""
        return values if self.is_arranged else values.index_select(1, self.order.to(values.device))

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """The columns of (B, C) of each group: P tensors (B, size)."""
        return self.arrange(values).split(self.sizes, dim=1)


@remember
def partition_classes(class_groups: Tensor) -> Partition:
    """Sort the classes, (C,) integers, by group."""
    ids, order = class_groups.long().cpu().sort(stable=True)
    groups, sizes = ids.unique_consecutive(return_counts=True)
    is_arranged = bool((order[1:] > order[:-1]).all())
    return Partition(order.to(class_groups.device), tuple(sizes.tolist()), tuple(groups.tolist()), is_arranged)


@dataclass(frozen=True)
class GroupTerms:
    """Both distributions, cut into between and within groups.

    Their sum is the whole divergence: ``KL(p^t || p^s) = KL(p^t_. || p^s_.) + sum_G p^t_G within_G``.

    Attributes:
        log_student: (B, P) log of the student's group masses.
        log_teacher: (B, P) log of the teacher's.
        within: (B, P) ``KL( ptilde^t_G || ptilde^s_G )``.
    """

    log_student: Tensor
    log_teacher: Tensor
    within: Tensor


def decompose(student_scores: Tensor, teacher_scores: Tensor, partition: Partition) -> GroupTerms:
    """Cut both softmax distributions of (B, C) scores (logits over T) into between and within groups."""
    pairs = list(zip(partition.split(student_scores), partition.split(teacher_scores), strict=True))
    within = [kl_divergence(teacher.log_softmax(1), student.log_softmax(1)) for student, teacher in pairs]
    student_masses = torch.stack([student.logsumexp(1) for student, _ in pairs], dim=1)
    teacher_masses = torch.stack([teacher.logsumexp(1) for _, teacher in pairs], dim=1)
    return GroupTerms(student_masses.log_softmax(1), teacher_masses.log_softmax(1), torch.stack(within, dim=1))


def decompose_top(
    student_scores: Tensor, teacher_scores: Tensor, kept: Tensor, teacher_masses: Tensor, partition: Partition
) -> GroupTerms:
    """Cut a student's scores (B, C) and those of the classes that a teacher's store keeps in the same way.

    Args:
        student_scores: (B, C) logits over T.
        teacher_scores: (B, C) the same of the kept classes; what it holds elsewhere is not read.
        kept: (B, C) bool.
        teacher_masses: (B, P) logsumexp of all the teacher's scores in each group.
        partition: the classes by group.
    """
    masses, within = [], []
    splits = (partition.split(values) for values in (student_scores, teacher_scores, kept))
    for student, teacher, known, mass in zip(*splits, teacher_masses.split(1, dim=1), strict=True):
        masses.append(student.logsumexp(1))
        within.append(coarse_divergence(teacher - mass, student.log_softmax(1), known))
    student_masses = torch.stack(masses, dim=1)
    return GroupTerms(student_masses.log_softmax(1), teacher_masses.log_softmax(1), torch.stack(within, dim=1))


def _balanced(terms: GroupTerms, partition: Partition, alpha: float, beta: float, group_mass: Tensor | None) -> Tensor:
    """``alpha L_cross + beta L_within``."""
    if group_mass is None:
        log_mass = terms.log_teacher.logsumexp(0)
    else:
        log_mass = terms.log_teacher.new_tensor(log_group_masses("ltkd", group_mass, partition))
    cross = kl_divergence(rebalance(terms.log_teacher, log_mass), terms.log_student).mean()
    return alpha * cross + beta * terms.within.sum(1).mean()


def rebalance(log_teacher: Tensor, log_mass: Tensor) -> Tensor:
    """``log phat`` (B, P): each group divided by its mass (P,), each sample normalised again."""
    return (log_teacher - log_mass).log_softmax(1)


def group_masses(logits: Tensor, class_groups: Tensor, temperature: float) -> Tensor:
    """The teacher's group masses ``S_G``, summed over rows; the sums of batches add up to the store's.

    Args:
        logits: (N, C) floating point, the teacher's.
        class_groups: (C,) integer group of each class, from 0.
        temperature: T, from 0.01 to 1000.

    Returns:
        (G,) float64; 0 for a group without classes.

    Raises:
        UsageError: shapes or dtypes that do not match, negative groups, or a temperature out of range.
    """
    check_logits("group_masses", logits)
    check_scale("group_masses", "temperature", temperature)
    partition = checked_partition("group_masses", class_groups, logits)
    with full_precision(logits):
        probabilities = (logits.detach().to(compute_dtype(logits)) / temperature).softmax(1)
        masses = torch.zeros(partition.num_groups, dtype=torch.float64, device=logits.device)
        for group, columns in zip(partition.groups, partition.split(probabilities), strict=True):
            masses[group] = columns.sum(dtype=torch.float64)
    return masses


def checked_partition(where: str, class_groups: Tensor, logits: Tensor) -> Partition:
    """The classes of (B, C) logits by group.

    Raises:
        UsageError: not one integer for each class, or a negative group.
    """
    check_integers(where, "class_groups", class_groups)
    if class_groups.shape != logits.shape[1:]:
        raise UsageError(
            f"{where}: class_groups has shape {tuple(class_groups.shape)}, the logits have {logits.shape[1]} classes. "
            "Give the group of each class, (classes,)."
        )
    partition = partition_classes(class_groups)
    if partition.groups[0] < 0:
        raise UsageError(f"{where}: class_groups holds {partition.groups[0]}. Give every class a group, 0 or above.")
    return partition


def log_group_masses(where: str, group_mass: Tensor, partition: Partition) -> list[float]:
    """The logarithm of the mass of each group that has classes, P numbers.

    Raises:
        UsageError: too few masses, or one not above 0 for a group that has classes.
    """
    if group_mass.ndim != 1 or group_mass.shape[0] < partition.num_groups:
        raise UsageError(
            f"{where}: group_mass has shape {tuple(group_mass.shape)} for {partition.num_groups} groups. "
            "Give one mass per group, (groups,)."
        )
    numbers = _as_numbers(group_mass)
    for group in partition.groups:
        check_positive(where, f"group_mass[{group}]", numbers[group])
    return [math.log(numbers[group]) for group in partition.groups]


@remember
def _as_numbers(group_mass: Tensor) -> tuple[float, ...]:
    return tuple(group_mass.detach().tolist())


@register
@dataclass(frozen=True, kw_only=True)
class LTKD(Loss):
    """`ltkd` as an entry of the registry.

    Attributes:
        calibration: where S_G comes from: each ``batch`` (the paper), or the whole ``store``, once, which
            makes the loss independent of the batch's composition.
    """

    name: ClassVar[str] = "ltkd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    alpha: float = 1.0
    beta: float = 1.0
    temperature: float = 4.0
    calibration: str = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight(self.name, "alpha", self.alpha)
        check_weight(self.name, "beta", self.beta)
        check_scale(self.name, "temperature", self.temperature)
        if self.calibration not in CALIBRATIONS:
            raise unknown("calibration", self.calibration, CALIBRATIONS)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        groups = batch.need("class_groups", self.name)
        mass = batch.mass(self.temperature, self.name).groups if self.calibration == "store" else None
        options = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature, "group_mass": mass}
        if batch.has_top_only:
            classes, logits = batch.need("top_classes", self.name), batch.need("top_logits", self.name)
            sums = batch.at_temperature("group_logsumexp", self.temperature, self.name)
            return ltkd_top(batch.student_logits, classes, logits, sums, groups, **options)
        return ltkd(batch.student_logits, batch.need("logits", self.name), groups, **options)

    @property
    def top_temperature(self) -> float | None:
        """The temperature of the logsumexps that `ltkd_top` takes."""
        return self.temperature

    @property
    def mass_temperature(self) -> float | None:
        """The temperature of the store's masses; None with ``batch``."""
        return self.temperature if self.calibration == "store" else None
