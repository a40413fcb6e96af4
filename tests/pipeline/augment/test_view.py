"""A view is a pure function: order, batches, workers, views between and the state of every generator change nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.augment import ALLOWED, Augmentation, AugmentedView, Transform, take_probe
from kdpipe.pipeline.augment.geometry import apply
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores.errors import UsageError
from PIL import Image
from torch.utils.data import DataLoader

SPECS = (
    "crop-flip,size=12,padding=2",
    "rrc-flip,size=10",
    "trivial-augment,size=12,padding=2",
    "rand-augment,size=10,interpolation=bicubic",
)
NAMES = [f"train/{i}.png" for i in range(24)]
PIXELS = np.random.default_rng(0).integers(0, 256, (len(NAMES), 3, 12, 12), np.uint8)
NORMALISED = Preprocessing.parse("image,resize=99,crop=98,mean=0.5,0.4,0.3,std=0.2,0.3,0.4")
GOLDEN_DIGEST = "blake2b-128:f617edc43abafa6c0989901f20745c02"


def view_of(spec: str, view: int = 0) -> AugmentedView:
    return AugmentedView(augmentation=Augmentation.parse(spec), preprocessing=NORMALISED, view=view)


def tensors() -> torch.Tensor:
    return torch.from_numpy(PIXELS)


def pictures() -> list[Image.Image]:
    return [Image.fromarray(image.transpose(1, 2, 0)) for image in PIXELS]


class Rows:
    """A map-style data set of one view."""

    def __init__(self, view: AugmentedView) -> None:
        self._view = view

    def __len__(self) -> int:
        return len(NAMES)

    def __getitem__(self, i: int) -> torch.Tensor:
        torch.rand(i % 5)  # disturbs the generators, as any other data set might
        np.random.rand(1)  # noqa: NPY002
        return self._view.one(pictures()[i], NAMES[i])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("images", [tensors, pictures])
def test_any_batches_in_any_order_give_the_same(spec: str, images: Callable[[], Any]) -> None:
    whole = view_of(spec).batch(images(), NAMES)
    size = view_of(spec).augmentation.size
    assert whole.shape == (len(NAMES), 3, size, size)
    assert whole.dtype == torch.float32
    order = np.random.default_rng(1).permutation(len(NAMES))
    torch.manual_seed(5)
    for part in np.array_split(order, 5):
        raws = tensors()[part] if images is tensors else [images()[i] for i in part]
        assert torch.equal(view_of(spec).batch(raws, [NAMES[i] for i in part]), whole[part])
    for i in (0, 7, 23):
        assert torch.equal(view_of(spec).one(images()[i], NAMES[i]), whole[i])
        view_of(spec, view=1).one(images()[i], NAMES[i])


@pytest.mark.parametrize("spec", SPECS[1:3])
def test_worker_processes_change_nothing(spec: str) -> None:
    wanted = view_of(spec).batch(pictures(), NAMES)
    for workers in (0, 1, 2):
        loader: Any = DataLoader(Rows(view_of(spec)), batch_size=7, num_workers=workers)  # pyright: ignore[reportArgumentType]
        assert torch.equal(torch.cat(list(loader)), wanted)


@pytest.mark.parametrize("spec", SPECS)
def test_threads_change_nothing(spec: str) -> None:
    before = torch.get_num_threads()
    wanted = view_of(spec).batch(pictures(), NAMES)
    try:
        torch.set_num_threads(3)
        assert torch.equal(view_of(spec).batch(pictures(), NAMES), wanted)
    finally:
        torch.set_num_threads(before)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
def test_view_and_seed_are_what_changes_it(view: int, other: int, seed: int, reseed: int) -> None:
    spec = "crop-flip,size=12,padding=4"
    one, two = view_of(f"{spec},seed={seed}", view), view_of(f"{spec},seed={reseed}", other)
    same = (view, seed) == (other, reseed)
    assert torch.equal(one.batch(tensors(), NAMES), two.batch(tensors(), NAMES)) == same


@pytest.mark.parametrize("spec", SPECS)
def test_torchs_generator_is_left_as_it_was(spec: str) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    view_of(spec).batch(pictures(), NAMES)
    assert torch.equal(torch.rand(4), wanted)


def test_the_generator_is_put_back_after_an_error_too() -> None:
    blur = Transform(name="GaussianBlur", parameters={"kernel_size": 999})
    broken = replace(view_of(SPECS[0]), augmentation=Augmentation(size=8, transforms=(blur,)))
    torch.manual_seed(3)
    wanted = torch.get_rng_state()
    with pytest.raises(UsageError, match="GaussianBlur"):
        broken.one(pictures()[0], "a")
    assert torch.equal(torch.get_rng_state(), wanted)


@pytest.mark.parametrize("images", [tensors, pictures])
def test_a_plain_view_is_crop_flip_and_the_preprocessings_numbers(images: Callable[[], Any]) -> None:
    view = view_of(SPECS[0])
    geometry = view.geometry(images(), NAMES)
    for i, image in enumerate(images()):
        cut = apply(image, geometry.one(i), 12).numpy() / np.float32(255)
        mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (NORMALISED.mean, NORMALISED.std))
        np.testing.assert_array_equal(view.one(image, NAMES[i]).numpy(), (cut - mean) / std)


def test_channels_are_the_preprocessings() -> None:
    grey = AugmentedView(
        augmentation=Augmentation(size=8), preprocessing=Preprocessing.parse("image,channels=3"), view=0
    )
    assert grey.batch(tensors()[:, :1], NAMES).shape == (len(NAMES), 3, 8, 8)
    mixed = [pictures()[0], pictures()[1].convert("L")]
    assert grey.batch(mixed, NAMES[:2]).shape == (2, 3, 8, 8)


def test_another_size_replays_the_geometry() -> None:
    view = view_of(SPECS[1])
    larger = replace(view, size=20)
    assert larger.batch(pictures(), NAMES).shape[-1] == 20
    for name in ("boxes", "flips"):
        ours, theirs = (getattr(v.geometry(pictures(), NAMES), name) for v in (view, larger))
        assert (ours == theirs).all()


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_every_allowed_transform_is_pure_and_keeps_the_size(name: str) -> None:
    needed: dict[str, Any] = {
        "GaussianBlur": {"kernel_size": 3}, "RandomAdjustSharpness": {"sharpness_factor": 2.0},
        "RandomAffine": {"degrees": 30, "translate": (0.2, 0.2)}, "RandomPosterize": {"bits": 3},
        "RandomRotation": {"degrees": 30, "interpolation": "bilinear"}, "RandomSolarize": {"threshold": 40},
        "ColorJitter": {"brightness": 0.5, "hue": (-0.1, 0.1)},
    }  # fmt: skip
    plain = Augmentation(size=48, padding=0, flip=0)
    dark = np.kron(PIXELS // 3, np.ones((1, 1, 4, 4), np.uint8))
    augmentation = replace(plain, transforms=(Transform(name=name, parameters=needed.get(name, {})),))
    view = AugmentedView(augmentation=augmentation, preprocessing=Preprocessing(), view=0)
    whole = view.batch(torch.from_numpy(dark), NAMES)
    assert torch.equal(torch.stack([view.one(dark[i], NAMES[i]) for i in range(len(NAMES))]), whole)
    assert not torch.equal(whole, replace(view, augmentation=plain).batch(torch.from_numpy(dark), NAMES))
    assert take_probe(augmentation).digest != take_probe(plain).digest


def test_mixed_inputs_are_those_of_the_partners() -> None:
    view = view_of(f"{SPECS[0]},mixup=1")
    mixing = view.mixing(NAMES, len(NAMES))
    inputs = view.batch(tensors(), NAMES)
    partners = view.batch(tensors()[mixing.rows], [NAMES[row] for row in mixing.rows])
    ratios = torch.from_numpy(mixing.ratios).view(-1, 1, 1, 1)
    torch.testing.assert_close(
        view.mixed(inputs, partners, mixing), ratios * inputs + (1 - ratios) * inputs[mixing.rows]
    )


@pytest.mark.parametrize("raw", [torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.uint8), "text", {"a": 1}])
def test_only_images_are_augmented(raw: Any) -> None:
    with pytest.raises(UsageError, match="Only images can be augmented"):
        view_of(SPECS[1]).one(raw, "a")


def test_a_view_has_a_golden_digest() -> None:
    """Of what we draw and compute alone: no library may change it."""
    assert input_digest(view_of(SPECS[0]).batch(tensors(), NAMES)) == GOLDEN_DIGEST
