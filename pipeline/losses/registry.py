"""The losses by name: what a loss takes and gives, the dict that lists them, and the decorator that fills it."""

# Shapes: B batch, C classes, R ranks, G groups.

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeGuard, TypeVar

import torch
from torch import Tensor

from ...stores.errors import UsageError, unknown
from ..factories import import_attribute
from ..specs import Spec
from .numerics import check_weight

# what a loss may have in its needs
STORE_ARRAYS = frozenset({"logits", "ranks"})


@dataclass(frozen=True, kw_only=True)
class TeacherMass:
    """What the teacher gives to classes and groups over all samples in use, at one temperature T.

    Attributes:
        classes: (C,) mean of ``softmax(z / T)`` over the samples.
        groups: (G,) its sum over the classes of each group; 0 for a group without classes.
    """

    classes: Tensor
    groups: Tensor

    def to(self, device: torch.device) -> "TeacherMass":
        """The same on a device."""
        return TeacherMass(classes=self.classes.to(device), groups=self.groups.to(device))


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """One batch, as every loss sees it.

    Attributes:
        student_logits: (B, C) floating point; the gradient flows here and nowhere else.
        labels: (B,) integer class ids; None where inputs are mixed (mixup, cutmix): no one label is right then.
        mixed_labels: (B, 2) integer class ids of each sample and of the one it is mixed with; None where none are.
        label_shares: (B,) floating point, the share of the first column of ``mixed_labels``; the second has the rest.
        view_logits: (B, V, C) the teacher's of every view in use, where a loss is of all views; else None.
        partner_logits: (B, C) the teacher's of the partners, where it has not seen the mixed inputs; else None.
        logits: (B, C) the teacher's, from the store; None where the objective does not need them.
        ranks: (B, R) class ids, the teacher's best first, from the store; None where not needed.
        top_classes: (B, K) class ids, the teacher's best first, from a store that keeps no other logits; else None.
        top_logits: (B, K) their logits.
        logsumexp: (B, T) of the teacher's logits over each of the ``temperatures``.
        group_logsumexp: (B, T * G) the same within each group, the groups of one temperature side by side.
        temperatures: those of the logsumexps.
        class_groups: (C,) integer group of each class; None where not needed.
        class_counts: (C,) training samples of each class; None where not needed.
        teacher_mass: the teacher's masses over the store, by temperature; those that the objective's
            ``mass_temperatures`` name.
        epoch: number of the epoch, from 0; None where no loss warms up.
    """

    student_logits: Tensor
    labels: Tensor | None = None
    mixed_labels: Tensor | None = None
    label_shares: Tensor | None = None
    view_logits: Tensor | None = None
    partner_logits: Tensor | None = None
    logits: Tensor | None = None
    ranks: Tensor | None = None
    top_classes: Tensor | None = None
    top_logits: Tensor | None = None
    logsumexp: Tensor | None = None
    group_logsumexp: Tensor | None = None
    temperatures: tuple[float, ...] = ()
    class_groups: Tensor | None = None
    class_counts: Tensor | None = None
    teacher_mass: Mapping[float, TeacherMass] = field(default_factory=dict)
    epoch: int | None = None

    def need(self, name: str, loss: str) -> Any:
        """What the attribute called ``name`` holds.

        Raises:
            UsageError: the batch does not carry it, or it is the one label of every sample and inputs are mixed.
        """
        value = getattr(self, name)
        if name == "labels" and self.mixed_labels is not None:
            raise needs_one_label(loss)
        if value is None:
            raise UsageError(f"The loss '{loss}' needs LossInputs.{name}, which is None. Fill it in.")
        return value

    @property
    def has_top_only(self) -> bool:
        """Whether the teacher's best classes stand in for all its logits."""
        return self.logits is None and self.top_classes is not None

    def at_temperature(self, name: str, temperature: float, loss: str) -> Tensor:
        """The columns of ``logsumexp`` (B, 1) or ``group_logsumexp`` (B, G) at one temperature.

        Raises:
            UsageError: the batch does not carry them.
        """
        values = self.need(name, loss)
        for index, known in enumerate(self.temperatures):
            if math.isclose(known, temperature, rel_tol=1e-9):
                return values.chunk(len(self.temperatures), dim=1)[index]
        known = ", ".join(f"{known:g}" for known in self.temperatures) or "none"
        raise UsageError(f"The loss '{loss}' needs LossInputs.{name} at temperature {temperature:g}; it has {known}.")

    def mass(self, temperature: float, loss: str) -> TeacherMass:
        """The teacher's masses at a temperature.

        Raises:
            UsageError: the batch does not carry them.
        """
        if temperature not in self.teacher_mass:
            raise UsageError(
                f"The loss '{loss}' needs LossInputs.teacher_mass at temperature {temperature:g}. Fill it in."
            )
        return self.teacher_mass[temperature]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss with its parameters; the base of every entry of the registry.

    Attributes:
        name: how a spec calls it.
        needs: the store arrays it reads: any of ``logits``, ``ranks``.
        all_views: whether it reads ``view_logits``, where the store has several views.
        mixes_targets: whether it learns from inputs that are mixed after the teacher has seen them.
        replaces_ce: whether it learns from the labels in the place of cross-entropy, which an `Objective` then
            does not add.
        weight: its factor in an `Objective`.
        warmup_epochs: W; in epoch e = 1, 2, ... the weight is multiplied by min(e / W, 1). 0 for none.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    all_views: ClassVar[bool] = False
    mixes_targets: ClassVar[bool] = False
    replaces_ce: ClassVar[bool] = False

    weight: float = 1.0
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        check_weight(self.name, "weight", self.weight)
        check_weight(self.name, "warmup_epochs", self.warmup_epochs)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        raise NotImplementedError

    @property
    def one_label(self) -> bool:
        """Whether it needs one label for every sample: it is then refused where inputs are mixed."""
        return False

    @property
    def mass_temperature(self) -> float | None:
        """The temperature at which it reads `LossInputs.teacher_mass`; None where it does not."""
        return None

    @property
    def top_temperature(self) -> float | None:
        """The temperature at which it reads logsumexps where only the teacher's best classes are stored.

        None where it has no such form: it then needs all logits, if it needs any.
        """
        return None


def needs_one_label(loss: str) -> UsageError:
    """The error for a loss that cannot take mixed inputs."""
    return UsageError(
        f"The loss '{loss}' needs one label for every sample; these inputs are mixed of two samples (mixup or "
        "cutmix). Use ce and losses of the teacher alone, or views that are not mixed."
    )


LossT = TypeVar("LossT", bound=Loss)

LOSSES: dict[str, type[Loss]] = {}


def register(loss_type: type[LossT]) -> type[LossT]:
    """Enter a loss into the registry under its ``name``."""
    LOSSES[loss_type.name] = loss_type
    return loss_type


def parse_loss(text: str) -> Loss:
    """Read a loss from its spec: ``NAME,key=value``, or ``python:package.module:LossClass,key=value``.

    Raises:
        UsageError: an unknown name or key (the nearest is suggested), or a value the loss refuses; a class of
            one's own that is not a `Loss`.
    """
    if " + " in text:
        raise UsageError(f"'{text}' is a sum of losses. Give each by a --loss of its own: they are summed.")
    spec = Spec.parse(text)
    if spec.name == "python":
        return dataclasses.replace(spec, name=f"python:{spec.location}", location="").into(_own_loss(spec.location))
    if spec.name not in LOSSES:
        first = re.split(r"[\s+=,]", spec.name)[0]
        if first in LOSSES and first != spec.name:
            raise UsageError(
                f"'{text}' is no loss. Options come after a comma ({first},key=value). A sum has a --loss for each of "
                "its losses; in a sweep, ' + ' between them."
            )
        raise unknown("loss", spec.name, LOSSES)
    if spec.location:
        raise UsageError(f"The loss '{text}' has a location. Write {spec.name},key=value.")
    return spec.into(LOSSES[spec.name])


def _own_loss(location: str) -> type[Loss]:
    """The loss class that ``package.module:LossClass`` names."""
    found = import_attribute(location, "loss", _is_loss)
    named = isinstance(getattr(found, "name", None), str)
    if not _is_loss(found) or not named or "__dataclass_fields__" not in vars(found):
        raise UsageError(
            f"'python:{location}' is no loss. Make it a frozen, keyword-only dataclass (@dataclass above the class) "
            "that extends kdpipe.pipeline.losses.Loss and has a name."
        )
    for name in sorted(set(found.needs) - STORE_ARRAYS):
        raise UsageError(
            f"The loss '{found.name}' has '{name}' in its needs. These are arrays of the store: "
            f"{', '.join(sorted(STORE_ARRAYS))}. Whatever else LossInputs holds is there without."
        )
    return found


def _is_loss(found: Any) -> TypeGuard[type[Loss]]:
    return isinstance(found, type) and issubclass(found, Loss) and found is not Loss
