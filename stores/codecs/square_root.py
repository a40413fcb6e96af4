"""One byte a logit: steps that grow with the distance from the row's largest logit.

Shapes: n rows, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import ArrayInfo
from .codec import Arrays, LogitCodec

_LARGEST_CODE = 255


@dataclass(frozen=True, kw_only=True)
class Int8(LogitCodec):
    """The square-root code, anchored at the row's maximum m: C + 8 bytes a row.

    A logit z = m - d has the code ``q = round(sqrt(d / s))``, but at least 1 where d > 0, and is read as ``m - s q^2``.
    The step s is the row's range R over 255^2, the next float32 above it, so that q ends at 255. Classes at the top,
    which carry the probability, are stored finely; the far tail coarsely.

    Error: with u = sqrt(d / s), ``|s q^2 - d| = s |q - u| (q + u)``. Rounding has |q - u| <= 1/2, hence
    ``<= s (u + 1/4) = sqrt(s d) + s / 4``. Where 0 < u < 1/2 is lifted to q = 1, the error is ``s - d < s``. So each
    logit is off by at most ``sqrt(s d) + s``: at the top by R / 65025, at the bottom by about R / 255.

    The best class stays the best: code 0 belongs to classes whose logit is exactly m, and every other is read as less
    than m, also where float32 would round ``m - s q^2`` to m.
    """

    name: ClassVar[str] = "int8"
    # m - s q^2 must not overflow on the way
    largest: ClassVar[float] = 1e38

    def arrays(self, num_classes: int) -> tuple[ArrayInfo, ...]:
        """The codes, and each row's maximum m and step s."""
        return (
            ArrayInfo(name="logit_codes", dtype="uint8", width=num_classes),
            ArrayInfo(name="logit_scale", dtype="float32", width=2),
        )

    def decode(self, stored: Arrays) -> np.ndarray:
        """The logits, float32."""
        codes = stored["logit_codes"].astype(np.float32)
        maximum, step = stored["logit_scale"][:, :1], stored["logit_scale"][:, 1:]
        logits = np.square(codes)
        logits *= -step
        logits += maximum
        np.minimum(logits, np.nextafter(maximum, np.float32(-np.inf)), out=logits, where=codes > 0)
        return logits

    def error_bound(self, values: np.ndarray, constants: Arrays) -> np.ndarray:  # noqa: ARG002
        """``sqrt(s d) + s``, and the float32 rounding of ``m - s q^2``."""
        maximum, step = _maximum_and_step(values)
        distance = maximum - values.astype(np.float64)
        rounding = 2.0**-22 * (np.abs(maximum) + distance.max(1, keepdims=True)) + 2.0**-148
        return np.where(distance > 0, np.sqrt(step * distance) + step + rounding, 0)

    def _encode(self, values: np.ndarray, class_groups: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ARG002
        maximum, step = _maximum_and_step(values)
        distance = maximum - values.astype(np.float64)
        codes = np.sqrt(distance / step).round()
        np.maximum(codes, 1, out=codes, where=distance > 0)
        return {
            "logit_codes": codes.astype(np.uint8),
            "logit_scale": np.concatenate([maximum, step], axis=1).astype(np.float32),
        }


def _maximum_and_step(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1) float64 each, exact as float32; the step is rounded up, so that it is above 0 and no code passes 255."""
    maximum = values.max(1, keepdims=True).astype(np.float64)
    step = (maximum - values.min(1, keepdims=True)) / _LARGEST_CODE**2
    return maximum, np.nextafter(step.astype(np.float32), np.float32(np.inf)).astype(np.float64)
