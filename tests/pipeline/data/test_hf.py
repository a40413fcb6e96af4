"""``hf:``: splits, class labels, and what is no saved data set."""

import sys
from pathlib import Path

import numpy as np
import pytest
from kdpipe.pipeline.data import load_data
from kdpipe.stores.errors import KdpipeError, MissingExtraError, UsageError
from PIL import Image

datasets = pytest.importorskip("datasets")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with splits, one without, and one that says which split it is."""
    root = tmp_path_factory.mktemp("hf")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "pixels": datasets.Array2D((9, 9), "uint8"),
        }
    )
    columns = {
        "image": [Image.fromarray(pixels) for pixels in PIXELS],
        "label": [i % 2 for i in range(12)],
        "pixels": list(PIXELS[..., 0]),
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    whole.save_to_disk(str(root / "whole"))
    datasets.Dataset.from_dict(columns, features=features, split="train").save_to_disk(str(root / "named"))
    splits = {"train": whole, "test": whole.shuffle(seed=0).select([3, 1])}
    datasets.DatasetDict(splits).save_to_disk(str(root / "splits"))
    datasets.DatasetDict({"only": whole}).save_to_disk(str(root / "one"))
    return root


@pytest.mark.parametrize(
    ("spec", "prefix"),
    [
        ("whole", ""),
        ("named", "train/"),
        ("named,split=train", "train/"),
        ("splits,split=train", "train/"),
        ("one", "only/"),
    ],
)
def test_images_labels_names_and_ids(saved: Path, spec: str, prefix: str) -> None:
    samples = load_data(f"hf:{saved}/{spec}")
    assert samples.sample_ids.to_pylist() == [f"{prefix}{row}" for row in range(12)]
    assert samples.labels.tolist() == [0, 1] * 6
    assert samples.class_names == ("no", "yes")
    np.testing.assert_array_equal(np.asarray(samples.raw(5)), PIXELS[5])


def test_another_order_is_followed(saved: Path) -> None:
    samples = load_data(f"hf:{saved}/splits,split=test")
    expected = datasets.load_from_disk(str(saved / "splits"))["test"]
    for i in range(2):
        np.testing.assert_array_equal(np.asarray(samples.raw(i)), np.asarray(expected[i]["image"]))


def test_arrays_of_a_fixed_shape(saved: Path) -> None:
    samples = load_data(f"hf:{saved}/whole,image=pixels,shape=9,9")
    np.testing.assert_array_equal(np.asarray(samples.raw(7)), PIXELS[7, None, :, :, 0])


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("splits", "has the splits train, test. Say which: split=train"),
        ("splits,split=tset", "Did you mean 'test'"),
        ("whole,split=train", "one data set without splits. Leave split= out"),
        ("named,split=test", "is the split train"),
        ("nothing", "not a folder. Save the data set first"),
        ("splits,split=train,trust_remote_code=true", "Unknown option of 'hf' 'trust_remote_code'"),
    ],
)
def test_what_is_not_there(saved: Path, spec: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_data(f"hf:{saved}/{spec}")


def test_a_name_of_the_hub_is_no_folder() -> None:
    for name in ("", "uoft-cs/cifar10"):
        with pytest.raises(UsageError, match="save_to_disk"):
            load_data(f"hf:{name}")


def test_a_folder_that_is_no_data_set_and_a_damaged_one(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(KdpipeError, match="cannot be read as a saved data set"):
        load_data(f"hf:{tmp_path}")
    datasets.load_from_disk(str(saved / "whole")).save_to_disk(str(tmp_path / "bad"))
    next((tmp_path / "bad").glob("*.arrow")).write_bytes(b"none")
    with pytest.raises(KdpipeError, match="cannot be read as a saved data set"):
        load_data(f"hf:{tmp_path / 'bad'}")


def test_without_datasets_the_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"kdpipe\[hf\]"):
        load_data(f"hf:{saved}/whole")
