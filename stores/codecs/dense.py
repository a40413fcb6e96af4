"""Every logit as a floating-point number.

Shapes: n rows, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import ArrayInfo
from .codec import Arrays, LogitCodec


@dataclass(frozen=True, kw_only=True)
class Float32(LogitCodec):
    """Exact: 4 C bytes a row."""

    name: ClassVar[str] = "float32"

    def arrays(self, num_classes: int) -> tuple[ArrayInfo, ...]:
        """The logits as they are."""
        return (ArrayInfo(name="logits", dtype="float32", width=num_classes),)

    def decode(self, stored: Arrays) -> np.ndarray:
        """The logits as they are stored."""
        return stored["logits"]

    def error_bound(self, values: np.ndarray, constants: Arrays) -> np.ndarray:  # noqa: ARG002
        """None: 0."""
        return np.zeros_like(values)

    def _encode(self, values: np.ndarray, class_groups: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ARG002
        return {"logits": np.asarray(values, np.float32)}


@dataclass(frozen=True, kw_only=True)
class Float16(LogitCodec):
    """Rounded to 11 bits: 2 C bytes a row; equal neighbours in the order of the classes may appear."""

    name: ClassVar[str] = "float16"
    largest: ClassVar[float] = float(np.finfo(np.float16).max)

    def arrays(self, num_classes: int) -> tuple[ArrayInfo, ...]:
        """The logits, rounded."""
        return (ArrayInfo(name="logits", dtype="float16", width=num_classes),)

    def decode(self, stored: Arrays) -> np.ndarray:
        """The logits as they are stored: float16."""
        return stored["logits"]

    def error_bound(self, values: np.ndarray, constants: Arrays) -> np.ndarray:  # noqa: ARG002
        """A part in 2048 of each logit; below 2^-14, where float16's steps are even, 2^-25."""
        return half_precision_error(values)

    def _encode(self, values: np.ndarray, class_groups: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ARG002
        return {"logits": values.astype(np.float16)}


def half_precision_error(values: np.ndarray) -> np.ndarray:
    """The most by which rounding to float16 can change each of some numbers."""
    return np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)
