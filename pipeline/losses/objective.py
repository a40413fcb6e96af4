"""The objective a student is trained on: a weighted sum of losses, cross-entropy among them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...stores.errors import UsageError
from .ce import CrossEntropy
from .numerics import check_weight
from .registry import Loss, LossInputs, parse_loss


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses.

    Attributes:
        losses: the losses, each with its weight.
        ce_weight: the weight of cross-entropy, 0 for none. Not used where ``losses`` holds a `CrossEntropy`,
            which then is the objective's.
        terms: what is summed, cross-entropy included, by key: the loss's name, and ``NAME#2`` for the second
            of a name.

    Raises:
        UsageError: nothing is left to train on, or two losses need store calibration at two temperatures.
    """

    losses: tuple[Loss, ...]
    ce_weight: float = 1.0
    terms: dict[str, Loss] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_weight("objective", "ce_weight", self.ce_weight)
        losses = self.losses
        if self.ce_weight > 0 and not any(isinstance(loss, CrossEntropy) for loss in losses):
            losses = (CrossEntropy(weight=self.ce_weight), *losses)
        terms: dict[str, Loss] = {}
        for loss in losses:
            count = sum(other.name == loss.name for other in terms.values())
            terms[f"{loss.name}#{count + 1}" if count else loss.name] = loss
        object.__setattr__(self, "terms", terms)
        if not any(loss.weight > 0 for loss in losses):
            raise UsageError("The objective is empty: every weight is 0. Give a loss, or a weight above 0.")
        temperatures = self._group_mass_temperatures()
        if len(temperatures) > 1:
            raise UsageError(
                f"The objective needs the store's group masses at temperatures {temperatures}. "
                "Give the losses with calibration=store one temperature."
            )

    @classmethod
    def parse(cls, texts: Sequence[str], ce_weight: float | None = None) -> "Objective":
        """Read an objective from loss specs.

        Args:
            texts: one spec per loss. ``ce`` among them is the cross-entropy term.
            ce_weight: the weight of cross-entropy where ``texts`` does not name it; None for 1.

        Raises:
            UsageError: a spec that cannot be read, or cross-entropy given both ways.
        """
        losses = tuple(parse_loss(text) for text in texts)
        if ce_weight is not None and any(isinstance(loss, CrossEntropy) for loss in losses):
            raise UsageError("Cross-entropy is given twice: as the loss 'ce' and by its weight. Give one.")
        return cls(losses, 1.0 if ce_weight is None else ce_weight)

    @property
    def needs(self) -> frozenset[str]:
        """The store arrays the losses read, together."""
        return frozenset().union(*(loss.needs for loss in self.losses))

    @property
    def group_mass_temperature(self) -> float | None:
        """The temperature at which `LossInputs.group_mass` must be taken; None where no loss reads it."""
        return next(iter(self._group_mass_temperatures()), None)

    def __call__(self, batch: LossInputs) -> dict[str, Tensor]:
        """The losses of one batch.

        Returns:
            ``loss``, the total, and each weighted term by its key: scalars.
        """
        weighted = {key: loss.weight * loss(batch) for key, loss in self.terms.items()}
        return {"loss": torch.stack(list(weighted.values())).sum(), **weighted}

    def _group_mass_temperatures(self) -> list[float]:
        temperatures = (loss.group_mass_temperature for loss in self.losses)
        return sorted({temperature for temperature in temperatures if temperature is not None})
