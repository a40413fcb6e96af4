"""Specs and files say what is drawn; what cannot be is refused with the reason and the nearest name."""

import json
from pathlib import Path
from typing import Any

import pytest
from kdpipe.pipeline.augment import Augmentation, PaddedCrop, ResizedCrop, Transform, take_probe
from kdpipe.stores.errors import MismatchError, UsageError
from kdpipe.stores.probe import LibraryProbe
from torchvision.transforms import v2

TOML = """
size = 24
padding = 2
flip = 0.25
[[transforms]]
name = "ColorJitter"
brightness = 0.4
hue = [-0.1, 0.1]
[[transforms]]
name = "RandomErasing"
p = 0.5
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("crop-flip,size=32", Augmentation(size=32, padding=4)),
        ("crop-flip,size=32,padding=0,flip=0,seed=9", Augmentation(size=32, padding=0, flip=0, seed=9)),
        ("rrc-flip,size=224", Augmentation(size=224)),
        ("rrc-flip,size=64,scale=0.2,1,ratio=1,1", Augmentation(size=64, scale=(0.2, 1.0), ratio=(1.0, 1.0))),
        ("rrc-flip,size=64,interpolation=bicubic,mixup=0.2", Augmentation(size=64, interpolation="bicubic", mixup=0.2)),
        (
            "trivial-augment,size=32,padding=4,cutmix=1",
            Augmentation(size=32, padding=4, cutmix=1.0, transforms=(Transform(name="TrivialAugmentWide"),)),
        ),
        ("trivial-augment,size=32", Augmentation(size=32, transforms=(Transform(name="TrivialAugmentWide"),))),
        (
            "rand-augment,size=32,scale=0.3,1,num_ops=3",
            Augmentation(
                size=32,
                scale=(0.3, 1.0),
                transforms=(Transform(name="RandAugment", parameters={"num_ops": 3, "magnitude": 9}),),
            ),
        ),
    ],
)
def test_presets(spec: str, expected: Augmentation) -> None:
    found = Augmentation.parse(spec)
    assert found == expected
    assert isinstance(found.crop, ResizedCrop if found.padding is None else PaddedCrop)
    recorded = json.loads(json.dumps(found.to_dict()))
    assert recorded == found.to_dict()
    assert Augmentation.from_dict(recorded) == found


def test_files(tmp_path: Path) -> None:
    jitter = Transform(name="ColorJitter", parameters={"brightness": 0.4, "hue": (-0.1, 0.1)})
    erasing = Transform(name="RandomErasing", parameters={"p": 0.5})
    expected = Augmentation(size=24, padding=2, flip=0.25, transforms=(jitter, erasing))
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "a.json").write_text(json.dumps(expected.to_dict()))
    assert Augmentation.parse(f"{tmp_path}/a.toml") == expected
    assert Augmentation.parse(f"{tmp_path}/a.json") == expected
    assert Augmentation.parse(f"{tmp_path}/a.toml,mixup=0.2,seed=3").to_dict() == {
        **expected.to_dict(), "mixup": 0.2, "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("crop-flop,size=32", "Did you mean 'crop-flip'"),
        ("crop-flip:32", "Unknown augmentation 'crop-flip:32'"),
        ("crop-flip,sise=32", "Did you mean 'size'"),
        ("crop-flip", "size"),
        ("crop-flip,size=big", "cannot be read"),
        ("crop-flip,size=0", "size is 0; it must be from 1 to 4096"),
        ("crop-flip,size=5000", "size is 5000"),
        ("crop-flip,size=32,padding=-1", "padding is -1"),
        ("crop-flip,size=4,padding=4", "padding is 4; it must be from 0 to 3"),
        ("crop-flip,size=32,flip=1.5", "flip is 1.5"),
        ("crop-flip,size=32,flip=nan", "flip is nan"),
        ("crop-flip,size=32,seed=-1", "seed is -1"),
        ("crop-flip,size=32,scale=0.1,1", "Unknown option of 'crop-flip' 'scale'"),
        ("rrc-flip,size=32,scale=0,1", "scale is 0"),
        ("rrc-flip,size=32,scale=0.5,0.1", "scale is 0.1; it must be from 0.5 to 1"),
        ("rrc-flip,size=32,scale=0.5", "cannot be read"),
        ("rrc-flip,size=32,ratio=2,1", "ratio is 1"),
        ("rrc-flip,size=32,mixup=0", "mixup is 0; it must be from 0.05 to 4"),
        ("rrc-flip,size=32,cutmix=9", "cutmix is 9"),
        ("trivial-augment,size=32,padding=4,scale=0.1,1", "padding= cuts crops out and scale= resizes"),
        ("rand-augment,size=32,magnitude=31", "magnitude is 31"),
        ("missing.toml", "missing.toml cannot be read: No such file"),
        ("missing.toml,size=3", "Unknown option of 'missing.toml' 'size'"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Augmentation.parse(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 8, "sizes": 9}, "Did you mean 'size'"),
        ({"size": "8"}, "cannot be read"),
        ({}, "size"),
        ([], "must be a table"),
        ({"size": 8, "transforms": "ColorJitter"}, "must be a list of tables"),
        ({"size": 8, "transforms": [{"brightness": 1}]}, "each with a name"),
        ({"size": 8, "transforms": [{"name": "ColorJiter"}]}, "Did you mean 'ColorJitter'"),
        ({"size": 8, "transforms": [{"name": "ColorJitter", "brigthness": 1}]}, "Did you mean 'brightness'"),
        ({"size": 8, "transforms": [{"name": "Lambda", "lambd": "print"}]}, "Unknown transform 'Lambda'"),
        ({"size": 8, "transforms": [{"name": "RandomCrop", "size": 8}]}, "Give size=.. and padding=.."),
        ({"size": 8, "transforms": [{"name": "RandomInvert", "p": 2}]}, "p=2; it must be from 0 to 1"),
    ],
)
def test_bad_files(tmp_path: Path, fields: Any, message: str) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError) as caught:
        Augmentation.parse(f"{tmp_path}/bad.json")
    assert message in str(caught.value)


def test_a_file_that_is_no_augmentation_of_ones_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        Augmentation.parse(f"{tmp_path}/bad.json")
    (tmp_path / "bad.toml").write_text("size = = 3")
    with pytest.raises(UsageError, match="not valid TOML"):
        Augmentation.parse(f"{tmp_path}/bad.toml")
    (tmp_path / "bad.toml").write_text("#" * 200_000)
    with pytest.raises(UsageError, match="larger than"):
        Augmentation.parse(f"{tmp_path}/bad.toml")
    (tmp_path / "bad.toml").write_text("size = 8\nrecorded = true")
    with pytest.raises(UsageError, match="has 'recorded', which only an import"):
        Augmentation.parse(f"{tmp_path}/bad.toml")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ColorJitter", {"brightness": -1}),
        ("ColorJitter", {"brightness": "high"}),
        ("GaussianBlur", {"kernel_size": 4}),
        ("RandomPosterize", {}),
        ("AutoAugment", {"policy": "nothing"}),
        ("RandomRotation", {"degrees": 10, "interpolation": "cubic-ish"}),
        ("GaussianBlur", {"kernel_size": 999}),
    ],
)
def test_what_the_library_refuses_is_refused_by_name(name: str, parameters: dict[str, Any]) -> None:
    augmentation = Augmentation(size=8, transforms=(Transform(name=name, parameters=parameters),))
    with pytest.raises(UsageError, match=name):
        take_probe(augmentation)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("AugMix", {"mixture_width": 11}),
        ("RandAugment", {"num_ops": 10**9}),
        ("GaussianBlur", {"kernel_size": 1001}),
        ("RandomAffine", {"degrees": (0, float("inf"))}),
        ("RandomRotation", {"degrees": float("nan")}),
    ],
)
def test_numbers_that_would_take_for_ever_are_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"'{name}' has .*is allowed"):
        Transform(name=name, parameters=parameters)


def test_a_probe_agrees_with_itself_and_knows_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = Augmentation.parse("trivial-augment,size=16,padding=2")
    probe = take_probe(augmentation)
    probe.check(take_probe(augmentation), "s.kd")
    assert take_probe(Augmentation.parse("trivial-augment,size=16,padding=2,seed=1")).digest != probe.digest
    old = LibraryProbe(digest=probe.digest, libraries={**probe.libraries, "torchvision": "0.1.0"})
    old.check(take_probe(augmentation), "s.kd")  # another version that draws the same is fine

    class Redrawn(v2.TrivialAugmentWide):
        def __init__(self) -> None:
            super().__init__(num_magnitude_bins=30)

    monkeypatch.setattr(v2, "TrivialAugmentWide", Redrawn)
    with pytest.raises(MismatchError, match=r"s\.kd cannot be drawn again.*torchvision 0\.1\.0 then, .* now"):
        old.check(take_probe(augmentation), "s.kd")
    with pytest.raises(MismatchError, match=r"with the same versions, pillow .*another processor"):
        probe.check(take_probe(augmentation), "s.kd")


def test_a_probe_of_large_crops_is_small() -> None:
    assert take_probe(Augmentation.parse("crop-flip,size=224,padding=100")).digest
