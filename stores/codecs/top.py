"""The best K classes exactly, and how much mass the others have.

Shapes: n rows, C classes, K kept classes.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import GROUP_NAMES, ArrayInfo, class_dtype
from ..errors import UsageError
from ..ranking import rank_classes
from .codec import Codec

SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 0.01, 1000.0
_MAX_TEMPERATURES = 16
# rows are encoded so many elements at a time, so that the float64 copies stay small
_SLICE_ELEMENTS = 2**20


@dataclass(frozen=True, kw_only=True)
class TopK(Codec):
    """The best K classes with their logits, and logsumexps over all classes and over each group's.

    A kept class has its exact float32 logit, and with ``logsumexp(z / T)`` of its row its exact probability at every
    temperature of the list. So the mass of the classes that are not kept is known, in all and in each group; how it is
    spread among them is not. There is no ``decode``: logits that are not stored are never made up.

    Logits are float32, because the tail's mass is what remains of 1: rounded to float16, logits of 20 would shift it
    by up to a hundredth, more than the tail of many rows.

    Attributes:
        k: K.
        temperatures: at which the logsumexps are stored.
    """

    name: ClassVar[str] = "topk"
    # z / T and its exponentials stay in range at every temperature allowed
    largest: ClassVar[float] = 1e36

    k: int
    temperatures: tuple[float, ...] = (1.0, 4.0)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"topk:{self.k} keeps no class. Give at least 1.")
        if not 1 <= len(self.temperatures) <= _MAX_TEMPERATURES or len(set(self.temperatures)) < len(self.temperatures):
            raise UsageError(f"{self.spec}: give 1 to {_MAX_TEMPERATURES} temperatures, each once.")
        for temperature in self.temperatures:
            if not SMALLEST_TEMPERATURE <= temperature <= LARGEST_TEMPERATURE:  # NaN compares false
                raise UsageError(
                    f"{self.spec}: the temperature {temperature:g} is not between {SMALLEST_TEMPERATURE:g} and "
                    f"{LARGEST_TEMPERATURE:g}."
                )

    @property
    def spec(self) -> str:
        """``topk:K,temperatures=...``."""
        return f"{self.name}:{self.k},temperatures={','.join(map(_number, self.temperatures))}"

    def arrays(self, num_classes: int) -> tuple[ArrayInfo, ...]:
        """Kept classes, their logits, and the logsumexps: overall by temperature; by temperature, then group."""
        if self.k > num_classes:
            raise UsageError(f"topk:{self.k} keeps more classes than the {num_classes} there are. Give fewer.")
        count = len(self.temperatures)
        return (
            ArrayInfo(name="top_classes", dtype=class_dtype(num_classes), width=self.k),
            ArrayInfo(name="top_logits", dtype="float32", width=self.k),
            ArrayInfo(name="logsumexp", dtype="float32", width=count),
            ArrayInfo(name="group_logsumexp", dtype="float32", width=count * len(GROUP_NAMES)),
        )

    def temperature_index(self, temperature: float) -> int:
        """The place of a temperature in the list.

        Raises:
            UsageError: it is not stored.
        """
        for index, stored in enumerate(self.temperatures):
            if math.isclose(stored, temperature, rel_tol=1e-9):
                return index
        stored = ", ".join(map(_number, self.temperatures))
        wider = f"{self.spec},{_number(temperature)}"
        raise UsageError(
            f"The temperature {_number(temperature)} is not stored: {self.spec} has {stored}. Train at one of these, "
            f"or extract again with --codec {wider}."
        )

    def _encode(self, values: np.ndarray, class_groups: np.ndarray) -> dict[str, np.ndarray]:
        num_classes, num_groups = values.shape[1], len(GROUP_NAMES)
        stored = {array.name: np.empty((len(values), array.width), array.dtype) for array in self.arrays(num_classes)}
        step = max(1, _SLICE_ELEMENTS // num_classes)
        for start in range(0, len(values), step):
            rows, part = slice(start, start + step), values[start : start + step]
            classes = rank_classes(part)[:, : self.k]
            stored["top_classes"][rows] = classes
            stored["top_logits"][rows] = np.take_along_axis(part, classes, axis=1)
            for index, temperature in enumerate(self.temperatures):
                scores = part.astype(np.float64) / temperature
                stored["logsumexp"][rows, index] = logsumexp(scores)
                groups = [logsumexp(scores[:, class_groups == group]) for group in range(num_groups)]
                stored["group_logsumexp"][rows, index * num_groups : (index + 1) * num_groups] = np.stack(groups, 1)
        return stored


def logsumexp(scores: np.ndarray) -> np.ndarray:
    """``log sum exp`` over the last axis; -inf over no elements."""
    highest = scores.max(-1, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(highest), highest, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(scores - shift).sum(-1)) + shift[..., 0]


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
