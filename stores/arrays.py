"""The payload's arrays: their names, element types and widths, and what their axes mean."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

ArrayName = Literal[
    "logits",
    "ranks",
    "logit_codes",
    "logit_scale",
    "top_classes",
    "top_logits",
    "logsumexp",
    "group_logsumexp",
    "features",
    "boxes",
    "flips",
    "mix_rows",
    "mix_ratios",
    "mix_cuts",
]
DType = Literal["float16", "float32", "uint8", "uint16", "uint32"]

# what the last axis of each array counts; the other two are views and samples
AXES: dict[str, str] = {
    "logits": "class",
    "ranks": "rank",
    "logit_codes": "class",
    "logit_scale": "maximum_and_step",
    "top_classes": "place",
    "top_logits": "place",
    "logsumexp": "temperature",
    "group_logsumexp": "temperature_and_group",
    "features": "feature",
    "boxes": "left_top_right_bottom",
    "flips": "flip",
    "mix_rows": "partner",
    "mix_ratios": "own_share",
    "mix_cuts": "left_top_right_bottom",
}
ARRAY_NAMES = tuple(AXES)

GROUP_NAMES = ("head", "medium", "tail")


@dataclass(frozen=True, kw_only=True)
class ArrayInfo:
    """One payload array (view, sample, width): its name, element type and the length of its last axis."""

    name: ArrayName
    dtype: DType
    width: Annotated[int, Meta(ge=1, le=65536)]

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return {"float16": 2, "float32": 4, "uint8": 1, "uint16": 2, "uint32": 4}[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, uncompressed."""
        return self.width * self.item_bytes

    @property
    def fill_value(self) -> float | int:
        """What a padded or missing element holds: NaN in numbers, the largest integer in codes, ids and rows."""
        return float("nan") if self.dtype.startswith("float") else int(np.iinfo(self.dtype).max)


# how the inputs of augmented views were drawn: crop box and flip, and where inputs are mixed their partners
GEOMETRY_ARRAYS = (
    ArrayInfo(name="boxes", dtype="float32", width=4),
    ArrayInfo(name="flips", dtype="uint8", width=1),
)
MIXING_ARRAYS = (
    ArrayInfo(name="mix_rows", dtype="uint32", width=1),
    ArrayInfo(name="mix_ratios", dtype="float32", width=1),
    ArrayInfo(name="mix_cuts", dtype="float32", width=4),
)
VIEW_ARRAYS: dict[str, ArrayInfo] = {array.name: array for array in (*GEOMETRY_ARRAYS, *MIXING_ARRAYS)}


@dataclass(frozen=True, kw_only=True)
class ConstantInfo:
    """An array that a store holds once, for all rows: float32, one chunk.

    Attributes:
        name: of the array.
        shape: of it.
        axes: what each of its axes counts.
    """

    name: Literal["classifier_weight", "classifier_bias"]
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return 4 * math.prod(self.shape)


def class_dtype(num_classes: int) -> Literal["uint8", "uint16"]:
    """The element type that holds class ids of C classes, at most 65,536."""
    return "uint8" if num_classes <= 2**8 else "uint16"
