"""Data sets of torchvision and of the user: what they carry is taken, what they break is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline.data import load_data
from kdpipe.stores.errors import BadSampleError, MismatchError, UsageError
from PIL import Image

Module = Callable[[str, str], None]

CODE = """
import numpy as np, torch
class Data:
    def __init__(self, n=6): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i >= self.n: raise IndexError(i)
        return torch.full((1, 2, 2), float(i)), i % 3, "more"
def plain(n=6): return Data(n)
def rich(targets=None):
    data = Data()
    data.targets = targets if targets is not None else [0, 1, 0, 1, 0, 1]
    data.classes = [("cat", "tomcat"), "dog"]
    data.sample_ids = [f"key-{i}" for i in range(6)]
    return data
def tensor_targets():
    data = Data(); data.targets = torch.tensor([2, 1, 0, 2, 1, 0]); return data
def broken_targets(kind):
    data = Data()
    data.labels = {"names": ["a"] * 6, "one_hot": np.eye(6), "halves": [0.5] * 6, "short": [0, 1]}[kind]
    return data
class Raising(Data):
    def __getitem__(self, i):
        if i == 4: raise ValueError("no such frame")
        return super().__getitem__(i)
def raising(targets=True):
    data = Raising()
    if targets: data.targets = [0] * 6
    return data
class Words(Data):
    def __getitem__(self, i): return torch.zeros(1), "cat"
def words(): return Words()
def twice():
    data = Data(); data.sample_ids = list("abcdeb"); return data
def negative():
    data = Data(); data.targets = [0, 1, -1, 0, 0, 0]; return data
def beyond():
    data = Data(); data.targets = [0, 1, 2, 0, 0, 0]; data.classes = ["a", "b"]; return data
def a_list(): return iter([1])
"""


@pytest.fixture(autouse=True)
def _code(module: Module) -> None:
    module("own_data", CODE)


def test_a_plain_data_set_is_read_item_by_item() -> None:
    samples = load_data("python:own_data:plain,n=5")
    assert samples.labels.tolist() == [0, 1, 2, 0, 1]
    assert samples.class_names == ("0", "1", "2")
    assert samples.sample_ids.to_pylist() == ["0", "1", "2", "3", "4"]
    assert torch.equal(samples.raw(3), torch.full((1, 2, 2), 3.0))


def test_what_a_data_set_says_of_itself_is_taken() -> None:
    samples = load_data("python:own_data:rich")
    assert samples.labels.tolist() == [0, 1] * 3
    assert samples.class_names == ("cat, tomcat", "dog")
    assert samples.sample_ids.to_pylist() == [f"key-{i}" for i in range(6)]
    assert load_data("python:own_data:tensor_targets").labels.tolist() == [2, 1, 0] * 2


def test_an_item_that_raises_is_named() -> None:
    samples = load_data("python:own_data:raising")
    with pytest.raises(BadSampleError, match=r"Item 4 of 'python:own_data:raising' .*ValueError: no such frame"):
        samples.raw(4)
    assert samples.raw(3) is not None
    with pytest.raises(BadSampleError, match=r"Item 4 of .*no such frame"):
        load_data("python:own_data:raising,targets=false")


def test_an_item_whose_label_is_another_than_its_target_is_refused() -> None:
    samples = load_data("python:own_data:rich")  # targets 0, 1, 0, ...; items 0, 1, 2, ...
    assert samples.raw(1) is not None
    with pytest.raises(MismatchError, match=r"Item 2 of .* has the label 2, .* labels says 0\. Make the two agree"):
        samples.raw(2)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("twice", "sample id 'b' more than once"),
        ("plain,n=0", "is empty"),
        ("negative", "labels from -1 to 1"),
        ("beyond", "labels from 0 to 2 for 2 classes"),
        ("a_list", "not a map-style data set"),
        ("words", "Item 0 of .* has the label 'cat'"),
        ("broken_targets,kind=names", "`labels` of .* not one class number"),
        ("broken_targets,kind=one_hot", "`labels` of .* not one class number"),
        ("broken_targets,kind=halves", "`labels` of .* not one class number"),
        ("broken_targets,kind=short", "2 samples, 2 labels and 6 sample ids"),
        ("plian", "Did you mean 'plain'"),
        ("plain,x=3", "option of 'python:own_data:plain' 'x'. Known: class_map, imbalance, max_per_class, n, seed"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused(factory: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        load_data(f"python:own_data:{factory}")


# --- torchvision


def test_an_image_folder_keeps_relative_paths_as_ids(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/0.png", "cat/0.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (int(name[4]), 0, 0)).save(tmp_path / "images" / name)
    samples = load_data(f"torchvision:ImageFolder,root={tmp_path / 'images'}")
    assert samples.sample_ids.to_pylist() == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert samples.labels.tolist() == [0, 0, 1]
    assert samples.class_names == ("cat", "dog")
    assert np.asarray(samples.raw(1))[0, 0].tolist() == [1, 0, 0]


def test_fake_data_is_read_item_by_item() -> None:
    samples = load_data("torchvision:FakeData,size=7,num_classes=3")
    assert len(samples) == 7
    assert isinstance(samples.raw(0), Image.Image)


def test_split_becomes_train_and_keeps_the_ids_of_both_apart(
    module: Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torchvision import datasets

    class Small:
        def __init__(self, root: str, train: bool = True) -> None:
            self.targets = [0, 1, 1] if train else [1, 0]

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
            return torch.zeros(1), self.targets[position]

    monkeypatch.setattr(datasets, "CIFAR10", Small)
    assert load_data("torchvision:CIFAR10,root=x,split=train").sample_ids.to_pylist() == [
        "train/0",
        "train/1",
        "train/2",
    ]
    assert load_data("torchvision:CIFAR10,root=x,split=test").sample_ids.to_pylist() == ["test/0", "test/1"]
    with pytest.raises(UsageError, match=r"'tset'\. Did you mean 'test'"):
        load_data("torchvision:CIFAR10,root=x,split=tset")


def test_torchvision_mistakes_are_clear(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'CIFAR100'"):
        load_data(f"torchvision:CIFAR1000,root={tmp_path}")
    with pytest.raises(UsageError, match=r"'splti'\. Did you mean 'split'\? Known: class_map, download, imbalance, "):
        load_data(f"torchvision:CIFAR100,root={tmp_path},splti=train")
    with pytest.raises(UsageError, match="root"):
        load_data("torchvision:CIFAR100,split=train")
    with pytest.raises(UsageError, match=r"not found.*Give root=DIR .*download=true in the spec"):
        load_data(f"torchvision:CIFAR100,root={tmp_path / 'nowhere'},split=train")
    assert not (tmp_path / "nowhere").exists(), "nothing is downloaded unless asked for"
