"""torchvision's own random transforms, by name from a list of allowed ones; data says which, never code."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...stores.errors import UsageError, unknown

Value = bool | int | float | str | tuple[float, ...]

# transforms of torchvision.transforms.v2 that keep size and dtype, and the parameters that a file may give
ALLOWED: dict[str, frozenset[str]] = {
    "AugMix": frozenset({"severity", "mixture_width", "chain_depth", "alpha", "all_ops", "interpolation"}),
    "AutoAugment": frozenset({"policy", "interpolation"}),
    "ColorJitter": frozenset({"brightness", "contrast", "saturation", "hue"}),
    "ElasticTransform": frozenset({"alpha", "sigma", "interpolation"}),
    "GaussianBlur": frozenset({"kernel_size", "sigma"}),
    "RandAugment": frozenset({"num_ops", "magnitude", "num_magnitude_bins", "interpolation"}),
    "RandomAdjustSharpness": frozenset({"sharpness_factor", "p"}),
    "RandomAffine": frozenset({"degrees", "translate", "scale", "shear", "interpolation"}),
    "RandomAutocontrast": frozenset({"p"}),
    "RandomChannelPermutation": frozenset(),
    "RandomEqualize": frozenset({"p"}),
    "RandomErasing": frozenset({"p", "scale", "ratio", "value"}),
    "RandomGrayscale": frozenset({"p"}),
    "RandomInvert": frozenset({"p"}),
    "RandomPerspective": frozenset({"distortion_scale", "p", "interpolation"}),
    "RandomPhotometricDistort": frozenset({"brightness", "contrast", "saturation", "hue", "p"}),
    "RandomPosterize": frozenset({"bits", "p"}),
    "RandomRotation": frozenset({"degrees", "interpolation"}),
    "RandomSolarize": frozenset({"threshold", "p"}),
    "RandomVerticalFlip": frozenset({"p"}),
    "TrivialAugmentWide": frozenset({"num_magnitude_bins", "interpolation"}),
}
# a stranger's store may name any number: these are repeated, and others are sizes, degrees or factors
_COUNTS = ("num_ops", "mixture_width", "chain_depth")
_MAX_COUNT, _MAX_NUMBER = 10, 1000
# what we draw ourselves, and how it is asked for
_OURS = {
    "RandomCrop": "size=.. and padding=..",
    "RandomResizedCrop": "size=.., scale=.. and ratio=..",
    "RandomHorizontalFlip": "flip=..",
    "MixUp": "mixup=..",
    "CutMix": "cutmix=..",
}


@dataclass(frozen=True, kw_only=True)
class Transform:
    """One transform of torchvision.transforms.v2.

    Attributes:
        name: of its class.
        parameters: of its constructor.

    Raises:
        UsageError: it is not on the list of allowed ones, or a parameter is not.
    """

    name: str
    parameters: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name in _OURS:
            raise UsageError(
                f"'{self.name}' is not drawn by the library, so that it can be replayed for ever. "
                f"Give {_OURS[self.name]} beside the transforms."
            )
        if self.name not in ALLOWED:
            raise unknown("transform", self.name, ALLOWED)
        for name in self.parameters:
            if name not in ALLOWED[self.name]:
                raise unknown(f"parameter of '{self.name}'", name, ALLOWED[self.name])
            _check_size(self.name, name, self.parameters[name])
        probability = self.parameters.get("p", 0)
        if isinstance(probability, str | tuple) or not 0 <= probability <= 1:
            raise UsageError(f"The transform '{self.name}' has p={probability}; it must be from 0 to 1.")

    def build(self) -> Callable[[Tensor], Tensor]:
        """The transform itself.

        Raises:
            UsageError: the library refuses a parameter.
        """
        from torchvision.transforms import v2  # takes a second to import

        kind = getattr(v2, self.name, None)
        if kind is None:
            raise UsageError(f"This version of torchvision has no transform '{self.name}'. Upgrade torchvision.")
        parameters: dict[str, Any] = dict(self.parameters)
        try:
            if "interpolation" in parameters:
                parameters["interpolation"] = v2.InterpolationMode(parameters["interpolation"])
            if "policy" in parameters:
                parameters["policy"] = v2.AutoAugmentPolicy(parameters["policy"])
            inspect.signature(kind).bind(**parameters)
            return kind(**parameters)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0].removesuffix(".")
            raise UsageError(f"The transform '{self.name}' cannot be made: {reason}.") from None


def _check_size(transform: str, name: str, value: Value) -> None:
    largest = _MAX_COUNT if name in _COUNTS else _MAX_NUMBER
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, str) and not abs(number) <= largest:  # NaN compares false
            raise UsageError(f"The transform '{transform}' has {name}={number:g}; at most {largest} is allowed.")


def run_seeded(transforms: list[Callable[[Tensor], Tensor]], image: Tensor, key: int) -> Tensor:
    """An image through transforms that draw from torch's CPU generator, seeded with ``key`` and put back after.

    Args:
        transforms: in their order.
        image: (channels, H, W) uint8.
        key: ``ViewKeys.library``; its upper 63 bits are the seed.

    Raises:
        UsageError: a transform cannot take such an image, or gives another shape or dtype.
    """
    result = image
    with _seeded(key >> 1):
        for transform in transforms:
            try:
                result = transform(result)
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise UsageError(f"{_misfit(transform, image)}: {str(error).partition(chr(10))[0]}") from None
            if result.shape != image.shape or result.dtype != image.dtype:
                raise UsageError(f"{_misfit(transform, image)}: it gives {result.dtype} of {tuple(result.shape)}.")
    return result


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # not torch.manual_seed, which would seed the GPU's generators too
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


def _misfit(transform: object, image: Tensor) -> str:
    return f"The transform '{type(transform).__name__}' does not fit images of shape {tuple(image.shape)}"
