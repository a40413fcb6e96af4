"""The objective a student is trained on: a weighted sum of losses, cross-entropy among them."""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...stores.errors import KdpipeError, UsageError
from .ce import CrossEntropy
from .numerics import check_weight
from .registry import STORE_ARRAYS, Loss, LossInputs, parse_loss

logger = logging.getLogger(__name__)


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

    def report_warm_up(self, epochs: int) -> None:
        """Warn of losses that warm up for as long as a run of so many epochs lasts, or longer."""
        for loss in self.losses:
            if loss.warmup_epochs >= epochs:
                logger.warning(
                    "the loss '%s' warms up over %g epochs and the run has %d: its weight is %.0f %% of what was asked "
                    "for, on average. For less, give '%s,warmup_epochs=...', 0 for none.",
                    loss.name, loss.warmup_epochs, epochs, 50 * (epochs + 1) / loss.warmup_epochs, loss.name,
                )  # fmt: skip

    def __call__(self, batch: LossInputs) -> dict[str, Tensor]:
        """The losses of one batch.

        Returns:
            ``loss``, the total, and each weighted term by its key: scalars.

        Raises:
            UsageError: the batch lacks what a loss needs, a loss of one's own fails, or a loss is no scalar.
        """
        weighted = {key: _weight(loss, batch) * _value(key, loss, batch) for key, loss in self.terms.items()}
        return {"loss": torch.stack(list(weighted.values())).sum(), **weighted}


def _weight(loss: Loss, batch: LossInputs) -> float:
    """The loss's weight in the batch's epoch."""
    if not loss.warmup_epochs:
        return loss.weight
    return loss.weight * min((batch.need("epoch", loss.name) + 1) / loss.warmup_epochs, 1.0)


def _value(key: str, loss: Loss, batch: LossInputs) -> Tensor:
    """The loss, unweighted.

    Raises:
        UsageError: it is no scalar, or one's own and fails.
    """
    try:
        value = loss(batch)
    except (KdpipeError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if type(loss).__module__.startswith(f"{__package__}."):
            raise
        said = f"{type(error).__name__}: {error}".rstrip(": .")
        places = traceback.extract_tb(error.__traceback__)[1:2]  # where in the loss: nothing else tells
        where = "".join(f" (line {place.lineno} of {place.filename})" for place in places)
        raise UsageError(f"The loss '{key}' raised {said}{where}.{_lacking(error, loss, batch)}") from error
    if not isinstance(value, Tensor) or value.ndim:
        given = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UsageError(f"The loss '{key}' gives {given} for a batch. It must give one number: the mean, a tensor.")
    return value


def _lacking(error: Exception, loss: Loss, batch: LossInputs) -> str:
    """What a loss of one's own has looked for in vain, where it has stumbled over None, in sentences."""
    if "NoneType" not in str(error):
        return ""
    lacking = ""
    if batch.mixed_labels is not None:
        lacking += (
            " labels is None: these inputs are mixed of two samples (mixup or cutmix). Take mixed_labels and "
            "label_shares, or views that are not mixed."
        )
    names = sorted(name for name in STORE_ARRAYS.difference(loss.needs) if getattr(batch, name) is None)
    if names:
        lacking += f" Not in the needs of the loss, and therefore None: {', '.join(names)}. Add what it reads."
    return lacking
