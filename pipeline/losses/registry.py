"""The losses by name: what a loss takes and gives, the dict that lists them, and the decorator that fills it."""

# Shapes: B batch, C classes, R ranks, G groups.

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

from ...stores.errors import UsageError, unknown
from ..specs import Spec
from .numerics import check_weight


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """One batch, as every loss sees it.

    Attributes:
        student_logits: (B, C) floating point; the gradient flows here and nowhere else.
        labels: (B,) integer class ids.
        logits: (B, C) the teacher's, from the store; None where the objective does not need them.
        ranks: (B, R) class ids, the teacher's best first, from the store; None where not needed.
        class_groups: (C,) integer group of each class; None where not needed.
        group_mass: (G,) the teacher's group masses over the whole store; None where not needed.
    """

    student_logits: Tensor
    labels: Tensor
    logits: Tensor | None = None
    ranks: Tensor | None = None
    class_groups: Tensor | None = None
    group_mass: Tensor | None = None

    def need(self, name: str, loss: str) -> Tensor:
        """The tensor called ``name``.

        Raises:
            UsageError: the batch does not carry it.
        """
        tensor = getattr(self, name)
        if tensor is None:
            raise UsageError(f"The loss '{loss}' needs LossInputs.{name}, which is None. Fill it in.")
        return tensor


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss with its parameters; the base of every entry of the registry.

    Attributes:
        name: how a spec calls it.
        needs: the store arrays it reads: any of ``logits``, ``ranks``.
        weight: its factor in an `Objective`.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_weight(self.name, "weight", self.weight)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        raise NotImplementedError

    @property
    def group_mass_temperature(self) -> float | None:
        """The temperature at which `LossInputs.group_mass` must be taken; None where it is not read."""
        return None


LossT = TypeVar("LossT", bound=Loss)

LOSSES: dict[str, type[Loss]] = {}


def register(loss_type: type[LossT]) -> type[LossT]:
    """Enter a loss into the registry under its ``name``."""
    LOSSES[loss_type.name] = loss_type
    return loss_type


def parse_loss(text: str) -> Loss:
    """Read a loss from its spec, ``NAME,key=value``.

    Raises:
        UsageError: an unknown name or key (the nearest is suggested), or a value the loss refuses.
    """
    spec = Spec.parse(text)
    if spec.name not in LOSSES:
        raise unknown("loss", spec.name, LOSSES)
    if spec.location:
        raise UsageError(f"The loss '{text}' has a location. Write {spec.name},key=value.")
    return spec.into(LOSSES[spec.name])
