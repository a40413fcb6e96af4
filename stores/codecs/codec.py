"""What every codec is: how the teacher's logits become the arrays of a store, and by how much they change.

Shapes: n rows, C classes, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import ArrayInfo, ConstantInfo
from ..errors import BadLogitsError

COMPRESSED = "+zstd"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How logits are stored; the base of every codec. Rows are encoded independently of each other.

    Attributes:
        name: how a spec calls it.
        source: what is encoded: "logits" (n, C), or "features" (n, F), the input of the teacher's last layer.
        largest: the largest magnitude of a number that it can hold.
        compressed: whether chunks are compressed.
    """

    name: ClassVar[str]
    source: ClassVar[str] = "logits"
    largest: ClassVar[float] = float(np.finfo(np.float32).max)

    compressed: bool = False

    def __str__(self) -> str:
        return self.spec + (COMPRESSED if self.compressed else "")

    @property
    def spec(self) -> str:
        """The codec as text that :func:`parse_codec` reads, without compression."""
        return self.name

    def arrays(self, num_classes: int) -> tuple[ArrayInfo, ...]:
        """The arrays that take the place of the logits.

        Raises:
            UsageError: this codec cannot hold, or makes no sense for, so many classes.
        """
        raise NotImplementedError

    def constants(self, num_classes: int) -> tuple[ConstantInfo, ...]:  # noqa: ARG002 (codecs without any)
        """The arrays that are stored once, for all rows."""
        return ()

    def encode(self, values: np.ndarray, class_groups: np.ndarray) -> dict[str, np.ndarray]:
        """The stored arrays for some rows.

        Args:
            values: (n, C) float32 logits, or (n, F) float32 features where ``source`` says so.
            class_groups: (C,) group of every class: 0 head, 1 medium, 2 tail.

        Raises:
            BadLogitsError: a value is not finite, or larger than the codec can hold.
        """
        largest = float(np.abs(values).max(initial=0))
        if not np.isfinite(largest):
            raise BadLogitsError(f"The {self.source} are not finite (NaN or infinite): no codec can store them.")
        if largest > self.largest:
            raise BadLogitsError(
                f"The codec '{self}' holds numbers up to {self.largest:g}; the {self.source} reach {largest:g}. "
                "Choose float32."
            )
        return self._encode(values, class_groups)

    def _encode(self, values: np.ndarray, class_groups: np.ndarray) -> dict[str, np.ndarray]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LogitCodec(Codec):
    """A codec that gives all logits back, changed by no more than it says."""

    def decode(self, stored: Arrays) -> np.ndarray:
        """The logits (n, C), float32 (float16 where that is what is stored).

        Args:
            stored: the arrays of :meth:`arrays` for some rows, and those of :meth:`constants`.
        """
        raise NotImplementedError

    def error_bound(self, values: np.ndarray, constants: Arrays) -> np.ndarray:
        """The most by which each decoded logit can differ: (n, C).

        Args:
            values: (n, C) or (n, F): what is encoded.
            constants: the arrays of :meth:`constants`.
        """
        raise NotImplementedError
