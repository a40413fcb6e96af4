"""Proof that the libraries draw and compute as they did: the digest of fixed images, augmented."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...stores.errors import MismatchError
from ..views import Preprocessing, input_digest
from .augmentation import Augmentation
from .generator import uniforms, view_keys
from .view import AugmentedView

LIBRARIES = ("torch", "torchvision", "pillow")
_IMAGES = 32
_MAX_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class LibraryProbe:
    """What an augmentation makes of fixed images, and the libraries it was made with.

    Attributes:
        digest: over all results.
        libraries: version by name.
    """

    digest: str
    libraries: dict[str, str]

    @classmethod
    def take(cls, augmentation: Augmentation) -> "LibraryProbe":
        """Augment the fixed images now, as tensors and as PIL images, which have resizing of their own.

        Raises:
            UsageError: a transform cannot be made, or does not fit RGB images.
        """
        small = replace(augmentation, size=min(augmentation.size, _MAX_SIZE))
        view = AugmentedView(augmentation=small, preprocessing=Preprocessing(), view=0)
        images = _fixed_images(small.size)
        pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        results = torch.stack([view.batch(images, _names("tensor")), view.batch(pictures, _names("picture"))])
        levels = (results * 255).round().to(torch.uint8)  # scaled by 1/255 in between: exact again
        return cls(digest=input_digest(levels), libraries={name: version(name) for name in LIBRARIES})

    def to_dict(self) -> dict[str, Any]:
        """The fields, as a manifest keeps them."""
        return {"digest": self.digest, "libraries": dict(self.libraries)}

    def check(self, augmentation: Augmentation, place: str) -> None:
        """See that views drawn now are those drawn then.

        Args:
            augmentation: of the store.
            place: what the views belong to, for the message.

        Raises:
            MismatchError: the libraries draw or compute something else now.
        """
        now = LibraryProbe.take(augmentation)
        if now.digest == self.digest:
            return
        names = sorted(set(self.libraries) | set(now.libraries))
        versions = {name: (self.libraries.get(name, "unknown"), now.libraries.get(name, "unknown")) for name in names}
        changed = [f"{name} {then} then, {here} now" for name, (then, here) in versions.items() if then != here]
        same = ", ".join(f"{name} {here}" for name, (_, here) in versions.items())
        raise MismatchError(
            f"The augmented views of {place} cannot be replayed here: fixed images come out otherwise than when it was "
            f"made ({'; '.join(changed) or f'with the same versions, {same}: another processor or build'}). "
            "Use the versions it was made with, or extract the views again."
        )


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
