"""Crop and flip as numbers: drawn from our own generator, stored in fractions of the image, applied at any size.

Shapes: B images, H and W size of an image in pixels.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...stores.errors import UsageError
from .generator import below, uniforms

Interpolation = Literal["nearest", "bilinear", "bicubic"]

# tries of a random resized crop before it takes the middle of the image
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Crops and flips of B images.

    Attributes:
        boxes: (B, 4) float32: left, top, right and bottom of the crop, in fractions of the image's width and height.
            A crop may pass the image's border; what lies outside is black.
        flips: (B,) uint8: 1 where the crop is mirrored, left to right.
    """

    boxes: np.ndarray
    flips: np.ndarray

    def one(self, i: int) -> "Geometry":
        """That of image i alone."""
        return Geometry(boxes=self.boxes[i : i + 1], flips=self.flips[i : i + 1])

    def windows(self, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """The boxes in whole pixels of images of these sizes: (B, 4) int64, left, top, right, bottom.

        Exact for the images they were drawn for, up to 2^22 pixels a side. On others a window keeps one pixel at least,
        and touches the image.
        """
        scale = np.stack([widths, heights, widths, heights], axis=1)
        pixels = np.rint(self.boxes.astype(np.float64) * scale).astype(np.int64)
        pixels[:, :2] = np.minimum(pixels[:, :2], scale[:, :2] - 1)
        pixels[:, 2:] = np.maximum(pixels[:, 2:], np.maximum(pixels[:, :2] + 1, 1))
        return pixels


@dataclass(frozen=True, kw_only=True)
class PaddedCrop:
    """A square of ``size`` pixels anywhere in the image with ``padding`` black pixels around it."""

    size: int
    padding: int = 0

    def windows(self, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """(B, 4) int64: left, top, right, bottom.

        Raises:
            UsageError: an image is smaller than the crop.
        """
        free = np.stack([widths, heights], axis=1) + 2 * self.padding - self.size
        if (free < 0).any():
            worst = int(np.argmin(free.min(1)))
            raise UsageError(
                f"An image of {widths[worst]}x{heights[worst]} pixels with padding={self.padding} has no room for a "
                f"crop of size={self.size}. Give a smaller size, more padding, or rrc-flip, which resizes."
            )
        corner = below(uniforms(keys, 2, first=1), free + 1) - self.padding
        return np.concatenate([corner, corner + self.size], axis=1)


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """A part of the image of random area and shape, to be resized.

    Christian Szegedy et al., "Going Deeper with Convolutions", https://arxiv.org/abs/1409.4842, section 6; area and the
    logarithm of width / height are uniform. After ten parts that do not fit it is the middle of the image.

    Attributes:
        scale: limits of the part's area, as fractions of the image's.
        ratio: limits of its width / height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def windows(self, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """(B, 4) int64: left, top, right, bottom."""
        # one by one with the C library's functions: vectorised logarithms may differ in the last bit
        numbers = uniforms(keys, 4 * _TRIES, first=1).reshape(-1, _TRIES, 4).tolist()
        sizes = zip(heights.tolist(), widths.tolist(), strict=True)
        return np.array([self._window(tries, h, w) for tries, (h, w) in zip(numbers, sizes, strict=True)], np.int64)

    def _window(self, tries: list[list[float]], image_height: int, image_width: int) -> tuple[int, int, int, int]:
        low, high = map(math.log, self.ratio)
        for area, shape, across, down in tries:
            wanted = image_height * image_width * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + shape * (high - low))
            width, height = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
            if 0 < width <= image_width and 0 < height <= image_height:
                left = int(across * (image_width - width + 1))
                top = int(down * (image_height - height + 1))
                return left, top, left + width, top + height
        nearest = min(max(image_width / image_height, self.ratio[0]), self.ratio[1])
        width = max(1, min(image_width, round(image_height * nearest)))
        height = max(1, min(image_height, round(image_width / nearest)))
        left, top = (image_width - width) // 2, (image_height - height) // 2
        return left, top, left + width, top + height


def draw(
    crop: PaddedCrop | ResizedCrop, flip: float, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> Geometry:
    """The geometry of B images.

    Number 0 of each sequence decides the flip, the following ones the crop.

    Args:
        crop: how crops are drawn.
        flip: probability of a flip.
        keys: (B,) uint64, ``ViewKeys.geometry``.
        heights: (B,) int64, H.
        widths: (B,) int64, W.

    Raises:
        UsageError: an image is smaller than its crop.
    """
    windows = crop.windows(keys, heights, widths)
    boxes = (windows / np.stack([widths, heights, widths, heights], axis=1)).astype(np.float32)
    return Geometry(boxes=boxes, flips=(uniforms(keys, 1)[:, 0] < flip).astype(np.uint8))


def apply(image: Any, geometry: Geometry, size: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """One image, cropped, resized to ``size`` pixels a side and flipped: (channels, size, size) uint8.

    A crop that has that size already is only cut out.

    Args:
        image: PIL image, or (channels, H, W) uint8.
        geometry: of this one image.
        size: of the result, whatever it was when the geometry was drawn.
        interpolation: of the resizing, with antialiasing.
    """
    from torchvision.transforms.v2 import functional  # takes a second to import

    height, width = functional.get_size(image)
    left, top, right, bottom = geometry.windows(np.array([height]), np.array([width]))[0].tolist()
    image = functional.crop(image, top, left, bottom - top, right - left)
    if (bottom - top, right - left) != (size, size):
        image = functional.resize(image, [size, size], functional.InterpolationMode(interpolation), antialias=True)
    if not isinstance(image, Tensor):
        image = functional.pil_to_tensor(image)
    return image.flip(-1) if geometry.flips[0] else image


def apply_batch(images: Tensor, geometry: Geometry, size: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """Images of one size, bit for bit what :func:`apply` gives one by one: (B, channels, size, size) uint8.

    Args:
        images: (B, channels, H, W) uint8.
        geometry: of all of them.
        size: of the result.
        interpolation: of the resizing.
    """
    count, channels, height, width = images.shape
    windows = geometry.windows(np.full(count, height), np.full(count, width))
    if not count or (windows[:, 2:] - windows[:, :2] != size).any():
        return torch.stack([apply(image, geometry.one(i), size, interpolation) for i, image in enumerate(images)])
    offsets = np.arange(size)
    columns = windows[:, :1] + np.where(geometry.flips[:, None] == 1, offsets[::-1], offsets)
    rows = windows[:, 1:2] + offsets
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    places = np.clip(rows, 0, height - 1)[:, :, None] * width + np.clip(columns, 0, width - 1)[:, None, :]
    index = torch.from_numpy(places).view(count, 1, -1).expand(count, channels, -1)
    taken = images.reshape(count, channels, -1).gather(2, index).view(count, channels, size, size)
    return taken * torch.from_numpy(inside)[:, None]
