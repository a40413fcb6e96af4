"""Proof that the libraries draw and compute as they did: the digest of fixed images, augmented."""

from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image

from ...stores.probe import LibraryProbe
from ..views import Preprocessing, input_digest
from .augmentation import Augmentation
from .generator import uniforms, view_keys
from .view import AugmentedView

LIBRARIES = ("torch", "torchvision", "pillow")
_IMAGES = 32
_MAX_SIZE = 64


def take_probe(augmentation: Augmentation) -> LibraryProbe:
    """Augment fixed images now, as tensors and as PIL images, which have resizing of their own.

    Raises:
        UsageError: a transform cannot be made, or does not fit RGB images.
    """
    size, padding = min(augmentation.size, _MAX_SIZE), augmentation.padding
    small = replace(augmentation, size=size, padding=None if padding is None else min(padding, size - 1))
    view = AugmentedView(augmentation=small, preprocessing=Preprocessing(), view=0)
    images = _fixed_images(small.size)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    results = torch.stack([view.batch(images, _names("tensor")), view.batch(pictures, _names("picture"))])
    levels = (results * 255).round().to(torch.uint8)  # scaled by 1/255 in between: exact again
    return LibraryProbe(digest=input_digest(levels), libraries={name: version(name) for name in LIBRARIES})


def _fixed_images(size: int) -> torch.Tensor:
    """(32, 3, H, W) uint8: noise over ramps, a little larger than ``size`` and not square."""
    height, width = size + 5, size + 11
    keys = view_keys(0, 0, _names("image")).geometry
    coarse = uniforms(keys, 3 * 8 * 8).reshape(_IMAGES, 3, 8, 8)
    down, across = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    ramp = (np.arange(height)[:, None] + np.arange(width)) % 64
    return torch.from_numpy((coarse[:, :, down][:, :, :, across] * 192 + ramp).astype(np.uint8))


def _names(kind: str) -> list[str]:
    return [f"probe-{kind}-{i}" for i in range(_IMAGES)]
