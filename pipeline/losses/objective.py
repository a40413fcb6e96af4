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
        losses: the losses, each with its weight. Those of weight 0 are left out: what they need is not read.
        ce_weight: the weight of cross-entropy, 0 for none. Not used where one of ``losses`` takes its place
            (``replaces_ce``), as a `CrossEntropy` with a weight of its own does.
        terms: what is summed, cross-entropy included, by key: the loss's name, and ``NAME#2`` for the second
            of a name.

    Raises:
        UsageError: nothing is left to train on.
    """

    losses: tuple[Loss, ...]
    ce_weight: float = 1.0
    terms: dict[str, Loss] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_weight("objective", "ce_weight", self.ce_weight)
        instead = any(loss.replaces_ce for loss in self.losses)
        losses = tuple(loss for loss in self.losses if loss.weight > 0)
        object.__setattr__(self, "losses", losses)
        if self.ce_weight > 0 and not instead:
            losses = (CrossEntropy(weight=self.ce_weight), *losses)
        terms: dict[str, Loss] = {}
        for loss in losses:
            count = sum(other.name == loss.name for other in terms.values())
            terms[f"{loss.name}#{count + 1}" if count else loss.name] = loss
        object.__setattr__(self, "terms", terms)
        if not losses:
            raise UsageError("The objective is empty: every weight is 0. Give a loss, or a weight above 0.")

    @classmethod
    def parse(cls, texts: Sequence[str], ce_weight: float | None = None) -> "Objective":
        """Read an objective from loss specs.

        Args:
            texts: one spec per loss. ``ce`` among them is the cross-entropy term.
            ce_weight: the weight of cross-entropy where no loss of ``texts`` is it or takes its place; None for 1.

        Raises:
            UsageError: a spec that cannot be read, or a weight for a cross-entropy that is not added.
        """
        losses = tuple(parse_loss(text) for text in texts)
        instead = next((loss.name for loss in losses if loss.replaces_ce), None)
        if ce_weight is not None and instead == CrossEntropy.name:
            raise UsageError("Cross-entropy is given twice: as the loss 'ce' and by its weight. Give one.")
        if ce_weight is not None and instead is not None:
            raise UsageError(
                f"The loss '{instead}' takes the place of cross-entropy, which has no weight then. Leave its weight "
                "out; to train on both, give the loss ce,weight=... too."
            )
        return cls(losses, 1.0 if ce_weight is None else ce_weight)

    @property
    def needs(self) -> frozenset[str]:
        """The store arrays the losses read, together."""
        return frozenset().union(*(loss.needs for loss in self.losses))

    @property
    def mass_temperatures(self) -> frozenset[float]:
        """The temperatures at which `LossInputs.teacher_mass` must be filled in."""
        temperatures = (loss.mass_temperature for loss in self.losses)
        return frozenset(temperature for temperature in temperatures if temperature is not None)

    def __call__(self, batch: LossInputs) -> dict[str, Tensor]:
        """The losses of one batch.

        Returns:
            ``loss``, the total, and each weighted term by its key: scalars.

        Raises:
            UsageError: the batch lacks what a loss needs, or a loss is no scalar.
        """
        weighted = {key: _weight(loss, batch) * loss(batch) for key, loss in self.terms.items()}
        for key, value in weighted.items():
            if value.ndim:
                raise UsageError(
                    f"The loss '{key}' gives {tuple(value.shape)} for a batch. It must give one number: the mean."
                )
        return {"loss": torch.stack(list(weighted.values())).sum(), **weighted}


def _weight(loss: Loss, batch: LossInputs) -> float:
    """The loss's weight in the batch's epoch."""
    if not loss.warmup_epochs:
        return loss.weight
    return loss.weight * min((batch.need("epoch", loss.name) + 1) / loss.warmup_epochs, 1.0)
