"""One augmented view of samples: from raw images to the exact tensors a network is given.

Shapes: B batch, H and W image size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from ...stores.errors import UsageError
from ..views import Preprocessing
from .augmentation import Augmentation
from .generator import ViewKeys, view_keys
from .geometry import Geometry, apply, apply_batch, draw
from .library import run_seeded
from .mixing import Mixing, draw_mixing, mix


@dataclass(frozen=True, kw_only=True)
class AugmentedView:
    """One view of a data set's samples: a pure function of (seed, sample id, view) and the sample.

    Attributes:
        augmentation: what is done; its seed is that of the view.
        preprocessing: scaling, normalisation and channels are its; its resizing and cropping are replaced.
        view: number of the view, from 0.
        size: side of the inputs in pixels; by default the augmentation's. Another one replays the same geometry.
    """

    augmentation: Augmentation
    preprocessing: Preprocessing
    view: int
    size: int | None = None

    def keys(self, sample_ids: Sequence[str]) -> ViewKeys:
        """Where the random numbers of these samples begin."""
        return view_keys(self.augmentation.seed, self.view, sample_ids)

    def geometry(self, raws: Sequence[Any] | Tensor, sample_ids: Sequence[str]) -> Geometry:
        """Crops and flips of B raw images.

        Raises:
            UsageError: an input is not an image, or smaller than its crop.
        """
        return self._draw(_images(raws), self.keys(sample_ids))

    def batch(
        self, raws: Sequence[Any] | Tensor, sample_ids: Sequence[str], geometry: Geometry | None = None
    ) -> Tensor:
        """The input tensors of some samples, not mixed: (B, channels, size, size) float32.

        Args:
            raws: PIL images or (channels, H, W) uint8 of any sizes, or (B, channels, H, W) uint8.
            sample_ids: their ids.
            geometry: what :meth:`geometry` gives for them, where that is known.

        Raises:
            UsageError: an input is not an image, or does not fit the augmentation.
        """
        images, keys, size = _images(raws), self.keys(sample_ids), self._size
        geometry = geometry or self._draw(images, keys)
        if isinstance(images, Tensor):
            cropped = list(apply_batch(images, geometry, size, self.augmentation.interpolation))
        else:
            mode = self.augmentation.interpolation
            cropped = [apply(image, geometry.one(i), size, mode) for i, image in enumerate(images)]
        if self._transforms:
            pairs = zip(cropped, keys.library.tolist(), strict=True)
            cropped = [run_seeded(self._transforms, image, key) for image, key in pairs]
        if len({image.shape for image in cropped}) == 1:
            return self._finish.batch(torch.stack(cropped))
        finished = [self._finish.one(image) for image in cropped]
        if len(channels := {len(image) for image in finished}) > 1:
            raise UsageError(
                f"Some images have {min(channels)} channel(s), others {max(channels)}. Give --preprocess "
                "image,channels=3."
            )
        return torch.stack(finished)

    def one(self, raw: Any, sample_id: str) -> Tensor:
        """The input tensor of one sample, not mixed: (channels, size, size) float32.

        Raises:
            UsageError: as :meth:`batch`.
        """
        return self.batch([raw], [sample_id])[0]

    def mixing(self, sample_ids: Sequence[str], num_rows: int) -> Mixing:
        """Partner, ratio and cut of some samples in a store of ``num_rows``; the augmentation mixes."""
        wanted = self.augmentation
        return draw_mixing(wanted.mixup, wanted.cutmix, self.keys(sample_ids).mixing, num_rows, wanted.size)

    def mixed(self, inputs: Tensor, partners: Tensor, mixing: Mixing) -> Tensor:
        """The mixed inputs, from :meth:`batch` of the samples and of their partners."""
        return mix(inputs, partners, mixing)

    @property
    def _size(self) -> int:
        return self.size or self.augmentation.size

    @cached_property
    def _transforms(self) -> list[Callable[[Tensor], Tensor]]:
        return [step.build() for step in self.augmentation.transforms]

    @cached_property
    def _finish(self) -> Preprocessing:
        return replace(self.preprocessing, resize=None, crop=None)

    def _draw(self, images: Sequence[Any] | Tensor, keys: ViewKeys) -> Geometry:
        if isinstance(images, Tensor):
            heights, widths = (np.full(len(images), side) for side in images.shape[-2:])
        else:
            sizes = [(i.height, i.width) if isinstance(i, Image) else tuple(i.shape[-2:]) for i in images]
            heights, widths = np.array(sizes, np.int64).reshape(-1, 2).T
        return draw(self.augmentation.crop, self.augmentation.flip, keys.geometry, heights, widths)


def _images(raws: Sequence[Any] | Tensor) -> Sequence[Any] | Tensor:
    """The raw inputs as PIL images or uint8 tensors."""
    if isinstance(raws, Tensor):
        _check_image(raws, 4)
        return raws
    images = [torch.from_numpy(raw) if isinstance(raw, np.ndarray) else raw for raw in raws]
    for image in images:
        if not isinstance(image, Image):
            _check_image(image, 3)
    return images


def _check_image(image: object, axes: int) -> None:
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == axes:
        return
    what = f"{image.dtype} of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
    raise UsageError(
        f"Only images can be augmented (PIL, or uint8 with channels first); the data set gives {what}. "
        "Leave --augment out, or let the data set give images."
    )
