"""Preprocessing is torchvision's, bit for bit, singly and in batches; and a digest proves a tensor."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores.errors import UsageError
from PIL import Image
from torchvision import models, transforms

RGB = "image,channels=3"


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"RGB": 3, "L": 1}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)


@pytest.mark.parametrize("size", [(300, 260), (101, 467), (64, 64), (232, 232), (225, 500)], ids=str)
@pytest.mark.parametrize(
    "weights",
    [
        models.ResNet50_Weights.IMAGENET1K_V2,
        models.ResNet18_Weights.IMAGENET1K_V1,
        models.EfficientNet_B0_Weights.IMAGENET1K_V1,  # bicubic
        models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,  # 384 pixels
    ],
    ids=lambda weights: str(weights),
)
def test_one_is_torchvisions_own_preset_bit_for_bit(weights: models.WeightsEnum, size: tuple[int, int]) -> None:
    image = picture(*size)
    ours = Preprocessing.from_torchvision(weights.transforms).one(image)
    assert torch.equal(ours, weights.transforms()(image))
    assert torch.equal(ours, Preprocessing.from_torchvision(weights.transforms()).one(image))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [16, 90])
def test_tensors_are_resized_as_pictures_are(interpolation: str, resize: int) -> None:
    """To a grey level: the kernels differ by rounding only. (torchvision's older preset is further off.)"""
    image = picture(40, 31)
    preprocessing = Preprocessing.parse(f"image,resize={resize},interpolation={interpolation}")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.testing.assert_close(preprocessing.one(pixels), preprocessing.one(image), rtol=0, atol=1.5 / 255)


def test_a_transform_that_is_not_a_plain_image_preset_is_refused() -> None:
    with pytest.raises(UsageError, match="--preprocess image"):
        Preprocessing.from_torchvision(transforms.ToTensor)
    with pytest.raises(UsageError, match="--preprocess image"):
        Preprocessing.from_torchvision(transforms.Normalize([0.5], [0.5]))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("options", ["", "resize=9", "crop=5", "resize=7,crop=9", "mean=0.5,0.4,0.3,std=0.2,0.3,0.4"])
@pytest.mark.parametrize("channels", [1, 3])
def test_batch_is_one_by_one_bit_for_bit(options: str, channels: int, interpolation: str) -> None:
    preprocessing = Preprocessing.parse(f"{RGB},interpolation={interpolation}{',' if options else ''}{options}")
    raw = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, channels, 8, 8), np.uint8))
    batch = preprocessing.batch(raw)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, torch.stack([preprocessing.one(image) for image in raw]))


def test_pixels_are_scaled_and_normalised_by_channel() -> None:
    raw = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    got = Preprocessing(mean=(0.0, 0.1, 0.5), std=(1.0, 0.1, 0.25)).one(raw)
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(Preprocessing().one(raw), raw / 255)


def test_pictures_and_their_pixels_as_tensor_or_array_give_the_same() -> None:
    image = picture(12, 9)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    preprocessing = Preprocessing.parse("image,crop=6,mean=0.5,std=0.5")
    assert torch.equal(preprocessing.one(image), preprocessing.one(tensor))
    assert torch.equal(preprocessing.one(tensor.numpy()), preprocessing.one(tensor))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (1, "RGB"), (3, "L"), (3, "RGB"), (None, "L"), (None, "RGB")])
def test_channels_are_converted(channels: int | None, mode: str) -> None:
    image = picture(6, 5, mode)
    got = Preprocessing.parse("image" if channels is None else f"image,channels={channels}").one(image)
    pixels = torch.from_numpy(np.array(image).reshape(5, 6, -1)).permute(2, 0, 1) / 255
    if channels == 1 and mode == "RGB":  # ITU-R 601 luma, rounded down to 8 bits
        luma = (torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1) * pixels).sum(0, keepdim=True)
        assert (got - luma).abs().max() <= 1 / 255
    else:
        assert torch.equal(got, pixels.expand(channels or len(pixels), 5, 6))


def test_floating_point_inputs_are_only_normalised() -> None:
    preprocessing = Preprocessing(mean=(1.0,), std=(2.0,))
    for shape in ((3, 4, 4), (7,)):
        values = torch.linspace(-3, 9, int(np.prod(shape))).view(shape)
        torch.testing.assert_close(preprocessing.one(values), (values - 1) / 2)
        torch.testing.assert_close(preprocessing.one(values.numpy()), (values - 1) / 2)
    whole = torch.arange(5)
    assert torch.equal(preprocessing.one(whole), whole), "token ids stay what they are"


SIDES = st.none() | st.integers(1, 512)
COLOURS = st.lists(st.floats(0.01, 2), min_size=1, max_size=1) | st.lists(st.floats(0.01, 2), min_size=3, max_size=3)


@given(
    resize=SIDES,
    crop=SIDES,
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    channels=st.sampled_from([None, 1, 3]),
    mean=COLOURS.map(tuple),
    std=COLOURS.map(tuple),
)
def test_a_preprocessing_is_read_back_from_its_dict_and_its_spec(**fields: object) -> None:
    preprocessing = Preprocessing(**fields)  # pyright: ignore[reportArgumentType]
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    options = {
        name: ",".join(map(repr, value)) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if value is not None
    }
    text = "image," + ",".join(f"{name}={value}" for name, value in options.items())
    assert Preprocessing.parse(text) == preprocessing


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("imgae", "Did you mean 'image'"),
        ("image,rezise=3", "Did you mean 'resize'"),
        ("image,resize=0", "at least 1 pixel"),
        ("image,crop=-1", "at least 1 pixel"),
        ("image,channels=4", "4"),
        ("image,mean=0.5,0.5", "three for RGB"),
        ("image,std=0", "positive"),
        ("image,std=nan", "positive"),
        ("image,interpolation=lanczos", "lanczos"),
    ],
)
def test_a_preprocessing_that_cannot_be_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Preprocessing.parse(text)


def test_a_recorded_preprocessing_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="recorded preprocessing"):
        Preprocessing.from_dict({"resize": "large"})
    with pytest.raises(UsageError, match="recorded preprocessing"):
        Preprocessing.from_dict({"std": [0.0]})


# --- digests


def test_the_digest_is_blake2b_over_dtype_shape_and_bytes() -> None:
    """Golden: stores written by released versions hold these for ever."""
    tensor = torch.arange(12, dtype=torch.float32).view(3, 2, 2)
    expected = hashlib.blake2b(b"torch.float32(3, 2, 2)" + np.arange(12, dtype="<f4").tobytes(), digest_size=16)
    assert input_digest(tensor) == f"blake2b-128:{expected.hexdigest()}"
    assert input_digest(tensor) == "blake2b-128:52b31b9f41790d65e5744aec740eff7b"


@given(st.integers(0, 11), st.integers(0, 31))
def test_the_digest_changes_with_any_bit(element: int, bit: int) -> None:
    values = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 2, 2)
    changed = values.copy()
    changed.view(np.uint32).reshape(-1)[element] ^= np.uint32(1 << bit)
    assert input_digest(torch.from_numpy(changed)) != input_digest(torch.from_numpy(values))


def test_the_digest_changes_with_shape_and_dtype() -> None:
    zeros = [torch.zeros(shape, dtype=dtype) for shape in ((1, 4, 4), (1, 2, 8), (16,), (4, 4)) for dtype in
             (torch.float32, torch.int32, torch.float16, torch.bfloat16, torch.uint8)]  # fmt: skip
    assert len({input_digest(tensor) for tensor in zeros}) == len(zeros)


def test_equal_tensors_have_equal_digests_however_they_lie_in_memory() -> None:
    tensor = torch.rand(3, 5, 4)
    digest = input_digest(tensor)
    assert input_digest(tensor.clone()) == digest
    assert input_digest(tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0)) == digest
    assert input_digest(torch.stack([tensor, tensor])[1]) == digest
    assert input_digest(torch.rand(6, 10, 8)[::2, ::2, ::2].copy_(tensor)) == digest
    last = tensor[None].contiguous(memory_format=torch.channels_last)
    assert input_digest(last[0]) == digest
    assert input_digest(tensor.requires_grad_()) == digest
    assert input_digest(torch.tensor(1.0)) != input_digest(torch.tensor(2.0))
