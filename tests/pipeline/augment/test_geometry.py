"""Crop and flip: torchvision's own cuts, numbers that give them back exactly, statistics, one by one as in batches."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.augment.generator import uniforms, view_keys
from kdpipe.pipeline.augment.geometry import Geometry, PaddedCrop, ResizedCrop, apply, apply_batch, draw
from kdpipe.stores.errors import UsageError
from PIL import Image
from scipy import stats
from torchvision.transforms.v2 import functional

Crop = PaddedCrop | ResizedCrop

# held for ever: a store's views must be drawn again by every later version
GOLDEN_PADDED = [[3, -2, 35, 30], [0, 4, 32, 36], [-4, 0, 28, 32], [4, 4, 36, 36]]
GOLDEN_RESIZED = [[145, 82, 376, 272], [6, 52, 307, 286], [219, 137, 349, 271], [18, 5, 396, 297]]
GOLDEN_FLIPS = [1, 1, 0, 0]


def keys(count: int, seed: int = 0) -> np.ndarray:
    return view_keys(seed, 0, [str(i) for i in range(count)]).geometry


def drawn(crop: Crop, count: int, height: int, width: int, flip: float = 0.5, seed: int = 0) -> Geometry:
    return draw(crop, flip, keys(count, seed), np.full(count, height), np.full(count, width))


def noise(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, height, width), np.uint8))


def test_golden_geometry() -> None:
    padded = drawn(PaddedCrop(size=32, padding=4), 4, 32, 32)
    assert (padded.boxes * 32).tolist() == GOLDEN_PADDED
    assert padded.flips.tolist() == GOLDEN_FLIPS
    resized = drawn(ResizedCrop(), 4, 300, 400)
    assert resized.windows(np.full(4, 300), np.full(4, 400)).tolist() == GOLDEN_RESIZED
    assert resized.flips.tolist() == GOLDEN_FLIPS


@given(
    st.sampled_from([PaddedCrop(size=8, padding=3), PaddedCrop(size=5), ResizedCrop(), ResizedCrop(scale=(0.9, 1.0))]),
    st.integers(8, 70_000), st.integers(8, 70_000), st.integers(0, 999),
)  # fmt: skip
def test_stored_fractions_give_the_very_pixels_back(crop: Crop, height: int, width: int, seed: int) -> None:
    sizes = np.array([height]), np.array([width])
    windows = crop.windows(keys(1, seed), *sizes)
    assert (drawn(crop, 1, height, width, seed=seed).windows(*sizes) == windows).all()
    left, top, right, bottom = windows[0].tolist()
    border = getattr(crop, "padding", 0)
    assert -border <= left < right <= width + border
    assert -border <= top < bottom <= height + border


@pytest.mark.parametrize("crop", [PaddedCrop(size=24, padding=4), ResizedCrop()], ids=["padded", "resized"])
def test_a_cut_is_torchvisions(crop: Crop) -> None:
    images = noise(20, 24, 30)
    geometry = drawn(crop, 20, 24, 30)
    for i, image in enumerate(images):
        left, top, right, bottom = crop.windows(keys(20)[i : i + 1], np.array([24]), np.array([30]))[0].tolist()
        pictures: list[Any] = [image, Image.fromarray(image.permute(1, 2, 0).numpy())]
        for picture in pictures:
            wanted = functional.pil_to_tensor(picture) if isinstance(picture, Image.Image) else picture
            if isinstance(crop, PaddedCrop):
                wanted = functional.pad(wanted, [4])[:, top + 4 : bottom + 4, left + 4 : right + 4]
            else:
                box = (top, left, bottom - top, right - left)
                wanted = functional.resized_crop(picture, *box, [24, 24], antialias=True)  # pyright: ignore
                wanted = wanted if isinstance(wanted, torch.Tensor) else functional.pil_to_tensor(wanted)
            if geometry.flips[i]:
                wanted = functional.horizontal_flip(wanted)
            assert torch.equal(apply(picture, geometry.one(i), 24), wanted)


@given(
    st.integers(1, 12), st.integers(0, 6), st.sampled_from([1, 3]), st.integers(0, 9), st.integers(9, 16), st.booleans()
)
def test_a_batch_is_its_images_one_by_one(
    size: int, padding: int, channels: int, count: int, side: int, other_size: bool
) -> None:
    size = min(size, side)
    images = noise(max(count, 1), side, side + 3, channels)
    geometry = drawn(PaddedCrop(size=size, padding=min(padding, size - 1)), len(images), side, side + 3)
    result = size + 5 if other_size else size
    batch = apply_batch(images, geometry, result)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, torch.stack([apply(image, geometry.one(i), result) for i, image in enumerate(images)]))


def test_another_size_shows_the_same_part_of_the_image() -> None:
    """A student of twice the resolution, on sources of twice the size, sees what was seen, to a grey level or so."""
    smooth = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(1, 64, 64).contiguous()
    small = functional.resize(smooth, [32, 32], antialias=True)
    geometry = drawn(ResizedCrop(), 30, 32, 32)
    for i in range(30):
        coarse = apply(small, geometry.one(i), 16).float()
        fine = functional.resize(apply(smooth, geometry.one(i), 32).float(), [16, 16], antialias=True)
        assert float((coarse - fine).abs().mean()) < 4


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_on_an_image_of_any_size_a_window_touches_it(height: int, width: int, seed: int) -> None:
    geometry = drawn(PaddedCrop(size=32, padding=31), 8, 32, 32, seed=seed)
    left, top, right, bottom = geometry.windows(np.full(8, height), np.full(8, width)).T
    assert ((left < right) & (left < width) & (right > 0) & (top < bottom) & (top < height) & (bottom > 0)).all()
    for i, image in enumerate(noise(8, height, width)):
        assert apply(image, geometry.one(i), 6).shape == (3, 6, 6)


def test_all_corners_are_as_likely() -> None:
    windows = PaddedCrop(size=32, padding=4).windows(keys(8100), np.full(8100, 32), np.full(8100, 32))
    for column in (0, 1):
        counts = np.bincount(windows[:, column] + 4, minlength=9)
        assert len(counts) == 9
        assert stats.chisquare(counts).pvalue > 1e-3
    table = np.zeros((9, 9))
    np.add.at(table, (windows[:, 0] + 4, windows[:, 1] + 4), 1)
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_areas_and_shapes_are_as_asked_for() -> None:
    crop = ResizedCrop(scale=(0.2, 0.5), ratio=(0.75, 4 / 3))
    windows = crop.windows(keys(4000), np.full(4000, 1000), np.full(4000, 1000))
    width, height = (windows[:, 2] - windows[:, 0]), (windows[:, 3] - windows[:, 1])
    assert stats.kstest(width * height / 1e6, stats.uniform(0.2, 0.3).cdf).pvalue > 1e-3
    spread = stats.uniform(math.log(0.75), math.log(16 / 9))
    assert stats.kstest(np.log(width / height), spread.cdf).pvalue > 1e-3


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flips_are_as_likely_as_asked_for(flip: float) -> None:
    share = drawn(PaddedCrop(size=4), 5000, 8, 8, flip).flips.mean()
    assert abs(share - flip) <= 4 * math.sqrt(flip * (1 - flip) / 5000)


def test_flip_and_corner_are_independent() -> None:
    geometry = drawn(PaddedCrop(size=32, padding=4), 5000, 32, 32)
    assert abs(np.corrcoef(geometry.boxes[:, 0], geometry.flips)[0, 1]) < 0.05


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 1), (1, 500)])
def test_an_image_that_no_part_fits_gives_its_middle(height: int, width: int) -> None:
    windows = ResizedCrop(scale=(1.0, 1.0)).windows(keys(5), np.full(5, height), np.full(5, width))
    short = min(height, width)
    sides = np.stack([windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]])
    assert sides.min() == short
    assert sides.max() == round(short * 4 / 3)
    assert abs(windows[:, [0, 2]].sum(1) - width).max() <= 1
    assert abs(windows[:, [1, 3]].sum(1) - height).max() <= 1


def test_an_image_smaller_than_its_crop_is_refused() -> None:
    with pytest.raises(UsageError, match=r"30x20 pixels with padding=1.*size=32"):
        drawn(PaddedCrop(size=32, padding=1), 1, 20, 30)


def test_number_0_of_the_sequence_decides_the_flip() -> None:
    flips = drawn(ResizedCrop(), 50, 20, 20).flips
    assert flips.tolist() == (uniforms(keys(50), 1)[:, 0] < 0.5).astype(int).tolist()
