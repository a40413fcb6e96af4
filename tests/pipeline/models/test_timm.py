"""timm's networks, the tiny ones that are made for tests, without a network connection."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, distill, extract
from kdpipe.pipeline.config import DistillConfig
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.models import load_model
from kdpipe.pipeline.specs import Spec
from kdpipe.pipeline.teachers import load_teacher
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import open_store
from kdpipe.stores.errors import KdpipeError, MismatchError, MissingExtraError, UsageError
from PIL import Image
from safetensors.torch import save_file
from torch import nn

timm = pytest.importorskip("timm")
CPU = torch.device("cpu")


def load(text: str, num_classes: int = 10, in_channels: int = 3, *, student: bool = False) -> nn.Module:
    return load_model(Spec.parse(text), num_classes=num_classes, in_channels=in_channels, student=student).module


@pytest.fixture
def photos(tmp_path: Path) -> str:
    for name in ("cat", "dog", "eel"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (200, 180, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "a.png")
    return f"folder:{tmp_path / 'photos'}"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 100)])
def test_a_student_has_the_data_s_classes_and_channels(channels: int, classes: int) -> None:
    network = load("timm:test_resnet", classes, channels, student=True).eval()
    assert network(torch.rand(2, channels, 32, 32)).shape == (2, classes)


def test_a_student_of_another_image_size() -> None:
    assert load("timm:test_vit,img_size=32", 10, 1).eval()(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(UsageError, match=r"test_resnet cannot be built with .*img_size=32"):
        load("timm:test_resnet,img_size=32")


def test_a_student_learns_and_is_a_teacher_then(tmp_path: Path) -> None:
    config = DistillConfig(
        student="timm:test_resnet", data="digits,split=train,max_per_class=20", out=tmp_path / "run", epochs=1
    )
    distill(config)
    teacher = f"timm:test_resnet,weights={tmp_path / 'run' / 'student.safetensors'}"
    extract(ExtractConfig(data="digits,split=test", teacher=teacher, out=tmp_path / "d.kd"))
    assert open_store(tmp_path / "d.kd").manifest.num_classes == 10


def test_a_teacher_sees_what_timm_would_show_it(photos: str, weights: Path, tmp_path: Path) -> None:
    extract(
        ExtractConfig(data=photos, teacher=f"timm:test_vit,weights={weights}", out=tmp_path / "d.kd", codec="float32")
    )
    network = load(f"timm:test_vit,weights={weights}", 3).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    samples = load_data(photos)
    with torch.no_grad():
        expected = network(torch.stack([transform(samples.raw(i)) for i in range(3)])).numpy()
    np.testing.assert_allclose(
        open_store(tmp_path / "d.kd").read([0, 1, 2], arrays=("logits",))["logits"], expected, atol=1e-5
    )


@pytest.mark.parametrize("text", ["timm:test_vit", "timm:test_vit,pretrained=false"])
def test_a_teacher_needs_weights(photos: str, text: str) -> None:
    with pytest.raises(UsageError, match=r"names no weights.*or pretrained=true"):
        load_teacher(text, load_data(photos), preprocess=None, device=CPU, precision="fp32")


def test_weights_of_other_classes_are_refused(weights: Path) -> None:
    with pytest.raises(MismatchError, match="have 3 classes"):
        load(f"timm:test_vit,weights={weights}", 10)


def test_pretrained_teachers_keep_their_classes_and_students_get_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = timm.create_model

    def without_download(name: str, **arguments: object) -> nn.Module:
        asked.append(arguments.pop("pretrained"))
        return original(name, **arguments)

    monkeypatch.setattr(timm, "create_model", without_download)
    inputs = torch.rand(2, 3, 160, 160)
    assert load("timm:test_vit.r160_in1k,pretrained=true").eval()(inputs).shape == (2, 1000)
    assert load("timm:test_vit.r160_in1k,pretrained=true", student=True).eval()(inputs).shape == (2, 10)
    assert asked == [True, True]


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(KdpipeError, match=r"cannot be loaded from timm/test_vit\.r160_in1k \(.*pass weights=FILE"):
        load("timm:test_vit,pretrained=true")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("timm:test_vitt", "no network 'test_vitt'. Did you mean test_vit"),
        ("timm:test_vit.r160", r"Did you mean test_vit\.r160_in1k"),
        ("timm:resnet5o", "Did you mean resnet5.*lists all [0-9]+"),
        ("timm:hf-hub:someone/something", "timm has no network"),
        ("timm:test_vit,pretraind=true", "Did you mean 'pretrained'"),
        ("timm:test_vit,pretrained=maybe", "cannot be read"),
        ("timm:test_vit,pretrained=true,weights=a.pt", "Give one of them"),
        ("timm:test_vit,weights=none.pt", "There is no weights file"),
        ("timm:", "names no model"),
    ],
)
def test_what_timm_does_not_know(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load(text)


@pytest.mark.parametrize(
    "change", [{"crop_mode": "squash"}, {"input_size": (3, 160, 200)}, {"interpolation": "random"}]
)
def test_preparations_of_another_kind_are_not_guessed(change: dict[str, object]) -> None:
    config = {
        "input_size": (3, 160, 160), "crop_pct": 0.95, "crop_mode": "center", "interpolation": "bicubic",
        "mean": (0.5,) * 3, "std": (0.25,) * 3,
    }  # fmt: skip
    assert Preprocessing.from_timm(config) == Preprocessing.parse(
        "image,resize=168,crop=160,interpolation=bicubic,channels=3,mean=0.5,0.5,0.5,std=0.25,0.25,0.25"
    )
    with pytest.raises(UsageError, match="--preprocess image,resize"):
        Preprocessing.from_timm(config | change)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"kdpipe\[timm\]"):
        load("timm:test_vit")
