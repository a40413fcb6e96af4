"""From a raw input to the exact tensor a network is given, and the digest that proves it.

Shapes: B batch, H and W image size.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import torch
from PIL.Image import Image
from torch import Tensor

from ..stores.errors import UsageError, unknown
from .specs import Spec
from .tensors import Inputs, as_inputs


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The deterministic steps from a raw input to the tensor a network is given.

    Images (PIL, or uint8 tensors with channels first) are resized, cropped at the centre, scaled to [0, 1] and
    normalised. Floating-point tensors are only normalised: the data set has prepared them.

    Attributes:
        resize: the shorter side, in pixels; None keeps the size.
        crop: side of the centre crop, in pixels; None keeps the size.
        interpolation: of the resizing, with antialiasing.
        channels: 1 or 3 converts to grey or RGB; None keeps what the data has.
        mean: for each channel, or one for all, on the scale [0, 1].
        std: likewise.
    """

    resize: int | None = None
    crop: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    channels: Literal[1, 3] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if any(size is not None and size < 1 for size in (self.resize, self.crop)):
            raise UsageError("Preprocessing: resize and crop must be at least 1 pixel.")
        if len(self.mean) not in (1, 3) or len(self.std) not in (1, 3):
            raise UsageError("Preprocessing: mean and std take one number, or three for RGB.")
        if any(not value > 0 for value in self.std):
            raise UsageError("Preprocessing: std must be positive.")

    @classmethod
    def parse(cls, text: str) -> "Preprocessing":
        """Read ``image,resize=256,crop=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225`` and the like.

        Raises:
            UsageError: not ``image``, an unknown option, or a value out of range.
        """
        spec = Spec.parse(text)
        if spec.name != "image":
            raise unknown("preprocessing", spec.name, ["image"])
        return spec.into(cls)

    @classmethod
    def from_torchvision(cls, transforms: Callable[..., Any]) -> "Preprocessing":
        """The same steps as torchvision's ``weights.transforms()`` for classification.

        Raises:
            UsageError: these weights come with another kind of transform.
        """
        preset: Any = transforms() if isinstance(transforms, type) or not hasattr(transforms, "mean") else transforms
        fields = ("resize_size", "crop_size", "mean", "std", "interpolation")
        if not all(hasattr(preset, name) for name in fields) or len(preset.resize_size) != 1:
            raise UsageError(
                "The preprocessing that torchvision gives for these weights is not a plain image one. "
                "Give it: --preprocess image,resize=..,crop=..,mean=..,std=.."
            )
        return cls(
            resize=preset.resize_size[0],
            crop=preset.crop_size[0],
            interpolation=preset.interpolation.value,
            channels=3,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )

    @classmethod
    def from_timm(cls, config: dict[str, Any]) -> "Preprocessing":
        """The same steps as timm's transform for evaluation, from ``timm.data.resolve_model_data_config``.

        Raises:
            UsageError: it squashes images, pads them, or makes them other than square.
        """
        _, height, width = config["input_size"]
        interpolation = config["interpolation"]
        if config["crop_mode"] != "center" or height != width or interpolation not in ("bilinear", "bicubic"):
            raise UsageError(
                f"timm prepares images for this network in a way of its own (crop_mode={config['crop_mode']}, "
                f"{height}x{width} pixels, {interpolation}). Say what it is to be given instead: "
                "--preprocess image,resize=..,crop=..,channels=3,mean=..,std=.."
            )
        return cls(
            resize=math.floor(height / config["crop_pct"]),
            crop=height,
            interpolation=interpolation,
            channels=3,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocessing":
        """The inverse of :meth:`to_dict`."""
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"The recorded preprocessing cannot be read: {error}.") from None

    def to_dict(self) -> dict[str, Any]:
        """The fields, as a manifest keeps them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def at_size(self, size: int) -> "Preprocessing":
        """For inputs of ``size`` pixels a side: the same share of the image, shrunk or enlarged."""
        share = 1 if self.resize is None or self.crop is None else self.resize / self.crop
        return dataclasses.replace(self, resize=round(size * share), crop=size)

    def one(self, raw: Any) -> Any:
        """What a network is given for one raw input: (channels, H, W) float32 for an image.

        Named tensors, and whole numbers other than uint8, pass unchanged.

        Raises:
            UsageError: the input is nothing that a network takes, or is no image and is to be prepared as one.
        """
        image = raw if _is_pil(raw) else as_inputs(raw)
        if isinstance(image, dict):
            self._refuse_named(image)
            return image
        self._check_axes(image)
        if self.resize is not None:
            functional = _functional()
            mode = functional.InterpolationMode(self.interpolation)
            image = functional.resize(image, [self.resize], mode, antialias=True)
        if self.crop is not None:
            image = _functional().center_crop(image, [self.crop])
        return self._normalise(_functional().pil_to_tensor(image) if _is_pil(image) else image)

    def batch(self, raw_BCHW: Tensor) -> Tensor:
        """The tensors for raw inputs of one size, bit for bit what :meth:`one` gives: (B, channels, H, W)."""
        if self.resize is None and self.crop is None:
            return self._normalise(raw_BCHW)
        return torch.stack([self.one(raw) for raw in raw_BCHW])

    def _refuse_named(self, inputs: dict[str, Tensor]) -> None:
        if self != Preprocessing():
            raise UsageError(
                f"The data set gives tensors by name ({', '.join(sorted(inputs))}), which go to the network as they "
                "are. Leave --preprocess out, and prepare them in the data set."
            )

    def _check_axes(self, image: Tensor | Image) -> None:
        as_image = [name for name in ("resize", "crop", "channels") if getattr(self, name) is not None]
        if isinstance(image, Tensor) and image.ndim < 3 and as_image:
            raise UsageError(
                f"The data set gives inputs of shape {tuple(image.shape)}, which are no images: "
                f"{', '.join(as_image)} cannot be applied. Leave --preprocess out, and prepare them in the data set."
            )

    def _normalise(self, image: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            image = self._with_channels(image).to(torch.float32) / 255
        elif not image.is_floating_point():
            return image
        if self.mean == (0.0,) and self.std == (1.0,):
            return image
        axes = (-1, 1, 1) if image.ndim >= 3 else (-1,)
        mean = torch.tensor(self.mean, dtype=image.dtype).view(axes)
        std = torch.tensor(self.std, dtype=image.dtype).view(axes)
        return (image - mean) / std

    def _with_channels(self, image: Tensor) -> Tensor:
        if self.channels is None or image.shape[-3] == self.channels:
            return image
        functional = _functional()
        return functional.grayscale_to_rgb(image) if self.channels == 3 else functional.rgb_to_grayscale(image)


def input_digest(inputs: Inputs) -> str:
    """The digest of an input: BLAKE2b with 128 bits over dtype, shape and bytes of a tensor.

    For named tensors, over the lines ``NAME=DIGEST``, sorted by name.
    """
    if isinstance(inputs, dict):
        lines = "".join(f"{name}={input_digest(inputs[name])}\n" for name in sorted(inputs))
        return f"blake2b-128:{hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()}"
    array = inputs.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{array.dtype}{tuple(array.shape)}".encode(), digest_size=16)
    digest.update(array.view(torch.uint8).numpy().data if array.ndim else array.numpy().tobytes())
    return f"blake2b-128:{digest.hexdigest()}"


def _functional() -> Any:
    from torchvision.transforms.v2 import functional  # takes a second to import: only where images need it

    return functional


def _is_pil(value: object) -> bool:
    return isinstance(value, Image)
