import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch
from kdpipe.pipeline.models import create_model, load_model, state_checksum
from kdpipe.pipeline.specs import Spec
from kdpipe.stores.errors import KdpipeError, MismatchError, UsageError
from safetensors.torch import save_file

SMALL = "shufflenet_v2_x0_5"  # torchvision's smallest network
SMALL_FILE = "shufflenetv2_x0.5-f707e7126e.pth"

FACTORIES = """
import torch
from torch import nn
from kdpipe.pipeline.models import create_model
def make(num_classes, in_channels, widen=1):
    return create_model("convnet_tiny", num_classes * widen, in_channels)
def fixed():
    return nn.Linear(4, 10)
def own_weights(weights):
    layer = nn.Linear(1, 1)
    layer.told = weights
    return layer
def fails():
    raise ValueError("no disk")
def text():
    return "a network"
def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
"""


def load(text, classes=5, channels=3):
    return load_model(Spec.parse(text), num_classes=classes, in_channels=channels)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    name = f"user_{uuid.uuid4().hex}"
    Path(f"{name}.py").write_text(FACTORIES)
    return name


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """The folder of torch's downloads: a file that is there already is not downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_a_name_without_a_scheme_is_told_how_to_write_it():
    with pytest.raises(UsageError, match=r"'resnet8x4' has no scheme. Write SCHEME:resnet8x4, with one of kdpipe, "):
        load("resnet8x4")


@pytest.mark.parametrize("text", ["kdpip:resnet8x4", "hub:resnet50"])
def test_an_unknown_scheme_lists_the_others(text):
    with pytest.raises(
        UsageError, match=r"Unknown model scheme.*Known: export, kdpipe, onnx, python, timm, torchvision\."
    ):
        load(text)


@pytest.mark.parametrize("scheme", ["kdpipe", "torchvision", "python", "export"])
def test_a_spec_without_a_model(scheme):
    with pytest.raises(UsageError, match=f"names no model. Write {scheme}:NAME"):
        load(f"{scheme}:")


def test_kdpipe_fresh_and_from_a_file(tmp_path):
    source = load("kdpipe:convnet_tiny", channels=1)
    assert source.spec == "kdpipe:convnet_tiny"
    assert source.weights_metadata == {}
    assert source.torchvision_transforms is None
    save_file(source.module.state_dict(), tmp_path / "w.safetensors", {"run": "abc"})
    text = f"kdpipe:convnet_tiny,weights={tmp_path / 'w.safetensors'}"
    copy = load(text, channels=1)
    assert state_checksum(copy.module) == state_checksum(source.module)
    assert copy.weights_metadata == {"run": "abc"}
    assert copy.spec == text


def test_kdpipe_takes_classes_and_channels_and_checks_the_files(tmp_path):
    module = load("kdpipe:convnet_tiny", classes=7, channels=2).module
    assert module(torch.zeros(2, 2, 8, 8)).shape == (2, 7)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(MismatchError, match=r"have 7 classes \(fc\.weight is \(7, 64\)\), 5 are needed"):
        load(f"kdpipe:convnet_tiny,weights={tmp_path / 'w.pth'}", channels=2)


def test_kdpipe_mistakes():
    with pytest.raises(UsageError, match="Did you mean 'resnet8x4'"):
        load("kdpipe:resnet8x")
    with pytest.raises(UsageError, match=r"Unknown option of 'kdpipe' 'weight'\. Did you mean 'weights'"):
        load("kdpipe:resnet8x4,weight=x.pth")
    with pytest.raises(UsageError, match="There is no weights file"):
        load("kdpipe:convnet_tiny,weights=none.safetensors")
    with pytest.raises(UsageError, match="There is no weights file IMAGENET1K_V1"):
        load("kdpipe:convnet_tiny,weights=IMAGENET1K_V1")


def test_torchvision_with_a_fresh_head_and_from_a_file(tmp_path):
    fresh = load(f"torchvision:{SMALL}", classes=6)
    assert fresh.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 6)
    assert fresh.torchvision_transforms is None
    torch.save({"model": fresh.module.state_dict()}, tmp_path / "w.pth")
    copy = load(f"torchvision:{SMALL},weights={tmp_path / 'w.pth'}", classes=6)
    assert state_checksum(copy.module) == state_checksum(fresh.module)
    with pytest.raises(MismatchError, match=r"have 6 classes .* 4 are needed"):
        load(f"torchvision:{SMALL},weights={tmp_path / 'w.pth'}", classes=4)


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"])
def test_torchvision_weights_keep_their_head_and_bring_their_preprocessing(torch_home, name):
    from torchvision import models

    source = models.get_model(SMALL, weights=None)
    torch.save(source.state_dict(), torch_home / SMALL_FILE)
    loaded = load(f"torchvision:{SMALL},weights={name}", classes=5)
    assert state_checksum(loaded.module) == state_checksum(source)
    assert loaded.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert loaded.torchvision_transforms is not None
    assert loaded.torchvision_transforms().crop_size == [224]


def test_torchvision_downloads_are_not_unpickled_without_restriction(torch_home, tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "created",))

    torch.save({"w": Malicious()}, torch_home / SMALL_FILE)
    with pytest.raises(
        KdpipeError, match=r"Weights\.DEFAULT cannot be loaded \(Unsupported global: .*\)\. Down.* pass weights=FILE"
    ):
        load(f"torchvision:{SMALL},weights=DEFAULT")
    assert not (tmp_path / "created").exists()


def test_torchvision_mistakes():
    with pytest.raises(UsageError, match=r"Unknown torchvision model 'resnet5O'\. Did you mean 'resnet50'"):
        load("torchvision:resnet5O")
    with pytest.raises(UsageError, match="Unknown torchvision model 'fcn_resnet50'"):  # segmentation
        load("torchvision:fcn_resnet50")
    with pytest.raises(UsageError, match=r"Unknown weights of resnet50 'IMAGENET1K_V3'\. .*IMAGENET1K_V1"):
        load("torchvision:resnet50,weights=IMAGENET1K_V3")
    with pytest.raises(UsageError, match=r"take 3 channels, the images have 1\. Add --preprocess \.\.\.,channels=3"):
        load("torchvision:resnet50", channels=1)
    with pytest.raises(UsageError, match="Unknown option of 'torchvision' 'pretrained'"):
        load("torchvision:resnet50,pretrained=true")
    with pytest.raises(UsageError, match="There is no weights file"):
        load(f"torchvision:{SMALL},weights=none.pth")


def test_torchvision_models_are_imported_only_where_they_are_asked_for():
    code = "import sys, kdpipe.pipeline.models as m; sys.exit('torchvision' in sys.modules)"
    paths = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=paths, check=False).returncode == 0


def test_python_factories_and_their_weights(user_module, tmp_path):
    loaded = load(f"python:{user_module}:make,widen=2", classes=4, channels=1)
    assert loaded.module.eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 8)
    assert loaded.spec == f"python:{user_module}:make,widen=2"
    save_file(create_model("convnet_tiny", 4, 1).state_dict(), tmp_path / "w.safetensors", {"a": "b"})
    loaded = load(f"python:{user_module}:make,weights=w.safetensors", classes=4, channels=1)
    assert loaded.weights_metadata == {"a": "b"}
    with pytest.raises(MismatchError, match=r"have 4 classes .* 9 are needed"):
        load(f"python:{user_module}:make,weights=w.safetensors", classes=9, channels=1)


def test_a_python_factory_that_takes_no_counts_or_takes_its_weights_itself(user_module):
    assert load(f"python:{user_module}:fixed").module(torch.zeros(1, 4)).shape == (1, 10)
    assert load(f"python:{user_module}:own_weights,weights=hub").module.told == "hub"


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        ("mak", UsageError, "Did you mean 'make'"),
        ("text", UsageError, r"returned a str, not a torch\.nn\.Module"),
        ("lazy", UsageError, "lazy layers"),
        ("fails", KdpipeError, "raised ValueError: no disk"),
        ("fixed,weights=none.pth", UsageError, "There is no weights file none.pth"),
        ("fixed,depth=3", UsageError, "Unknown option of 'python:.*:fixed' 'depth'"),
        ("make,wieghts=f", UsageError, r"Did you mean 'weights'\? Known: in_channels, num_classes, weights, widen\."),
        ("own_weights,wieghts=f", UsageError, r"Did you mean 'weights'\? Known: weights\."),
    ],
)
def test_python_mistakes(user_module, factory, error, message):
    with pytest.raises(error, match=message):
        load(f"python:{user_module}:{factory}")
