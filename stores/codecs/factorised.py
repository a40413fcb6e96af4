"""The input of the teacher's last layer, and that layer once.

Shapes: n rows, C classes, F features.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import ArrayInfo, ConstantInfo
from ..errors import UsageError
from .codec import Arrays, LogitCodec
from .dense import half_precision_error


@dataclass(frozen=True, kw_only=True)
class Factorised(LogitCodec):
    """Features f in float16, 2 F bytes a row, and the classifier (W, b) in float32 once; logits are ``W f + b``.

    Smaller than float16 logits only where there are more classes than features. The error of logit c is at most
    ``sum_j |W_cj| max(2^-11 |f_j|, 2^-25)``, and float32 round-off of the sums.

    Attributes:
        num_features: F; 0 until the teacher is known.
    """

    name: ClassVar[str] = "factorised"
    source: ClassVar[str] = "features"
    largest: ClassVar[float] = float(np.finfo(np.float16).max)

    num_features: int = 0

    def __post_init__(self) -> None:
        if self.num_features < 0:
            raise UsageError(f"{self.spec}: the number of features cannot be negative.")

    @property
    def spec(self) -> str:
        """``factorised``, with ``:F`` where F is known."""
        return f"{self.name}:{self.num_features}" if self.num_features else self.name

    def arrays(self, num_classes: int) -> tuple[ArrayInfo, ...]:
        """The features."""
        if not self.num_features:
            raise UsageError("The codec 'factorised' does not know the number of features. Give factorised:F.")
        if self.num_features >= num_classes:
            raise UsageError(
                f"The codec 'factorised' makes no sense here: the teacher has {self.num_features} features for "
                f"{num_classes} classes, so that the logits are smaller. Use --codec float16."
            )
        return (ArrayInfo(name="features", dtype="float16", width=self.num_features),)

    def constants(self, num_classes: int) -> tuple[ConstantInfo, ...]:
        """The classifier: weight (C, F) and bias (C,)."""
        weight, bias = (num_classes, self.num_features), (num_classes,)
        return (
            ConstantInfo(name="classifier_weight", shape=weight, axes=("class", "feature")),
            ConstantInfo(name="classifier_bias", shape=bias, axes=("class",)),
        )

    def decode(self, stored: Arrays) -> np.ndarray:
        """The logits, float32."""
        features = stored["features"].astype(np.float32)
        return features @ stored["classifier_weight"].T + stored["classifier_bias"]

    def error_bound(self, values: np.ndarray, constants: Arrays) -> np.ndarray:
        """Of the features' rounding, and of the float32 sums of both sides."""
        weight, bias = (np.abs(constants[f"classifier_{name}"]).astype(np.float64) for name in ("weight", "bias"))
        sizes, terms = np.abs(values.astype(np.float64)), values.shape[1] + 2
        # of each operation a part of its result, or the smallest number there is
        round_off = terms * (2.0**-23 * (sizes @ weight.T + bias) + 2.0**-149)
        return half_precision_error(sizes) @ weight.T + round_off

    def _encode(self, values: np.ndarray, class_groups: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ARG002
        return {"features": values.astype(np.float16)}
