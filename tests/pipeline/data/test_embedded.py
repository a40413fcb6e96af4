"""Digits and Fashion-MNIST: ids that stay, splits that do not overlap, files that are whole or refused."""

import gzip
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from kdpipe.pipeline.data import load_data
from kdpipe.stores.errors import UsageError
from sklearn.datasets import load_digits

# --- digits


def ids_of(spec: str) -> list[str]:
    return load_data(spec).sample_ids.to_pylist()


def test_digits_are_scikit_learns() -> None:
    samples, bunch = load_data("digits"), cast("Any", load_digits())
    assert len(samples) == 1797
    assert samples.sample_ids.to_pylist() == [f"digits/{i}" for i in range(1797)]
    np.testing.assert_array_equal(samples.labels, bunch.target)
    assert samples.class_names == tuple("0123456789")
    for position in (0, 1, 1796):
        raw = samples.raw(position)
        assert raw.dtype == torch.uint8
        expected = np.floor(bunch.images[position] * 255 / 16 + 0.5)[None]
        assert np.abs(raw.numpy() - expected).max() <= 1, "halves may round either way"
    assert max(int(samples.raw(i).max()) for i in range(50)) == 255


def test_digits_splits_are_disjoint_stratified_halves() -> None:
    train, test = load_data("digits,split=train"), load_data("digits,split=test")
    assert (len(train), len(test)) == (898, 899)
    assert not {*ids_of("digits,split=train")} & {*ids_of("digits,split=test")}
    assert {*ids_of("digits,split=train")} | {*ids_of("digits,split=test")} == {*ids_of("digits,split=all")}
    assert np.abs(train.class_counts - test.class_counts).max() <= 1
    assert ids_of("digits,split=train") == ids_of("digits,split=train")
    assert ids_of("digits,split=train")[:3] == ["digits/3", "digits/5", "digits/7"], "released stores join to these"


def test_an_image_has_one_id_in_every_split() -> None:
    everything = load_data("digits")
    place = {sample_id: position for position, sample_id in enumerate(ids_of("digits"))}
    for split in ("train", "test"):
        part = load_data(f"digits,split={split}")
        for position in range(0, len(part), 97):
            whole = place[part.sample_ids[position].as_py()]
            assert torch.equal(part.raw(position), everything.raw(whole))
            assert part.labels[position] == everything.labels[whole]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("digits,split=val", "must be one of train, test, all"),
        ("digits,spilt=train", "Did you mean 'split'"),
        ("digit", "Did you mean 'digits'"),
    ],
)
def test_a_wrong_spec_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        load_data(spec)


# --- fashion-mnist


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """12 training and 5 test images, unpacked."""
    generator = np.random.default_rng(0)
    for stem, size in (("train", 12), ("t10k", 5)):
        images = generator.integers(0, 256, (size, 28, 28), np.uint8)
        labels = np.arange(size, dtype=np.uint8) % 10
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_from_idx_files(fashion: Path, packed: bool) -> None:
    pixels = (fashion / "train-images-idx3-ubyte").read_bytes()[16:]
    if packed:
        for path in list(fashion.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    train, test = load_data(f"fashion-mnist:{fashion}"), load_data(f"fashion-mnist:{fashion},split=test")
    assert (len(train), len(test)) == (12, 5)
    assert train.sample_ids.to_pylist()[:2] == ["train/0", "train/1"]
    assert test.sample_ids.to_pylist()[-1] == "test/4"
    np.testing.assert_array_equal(train.labels, np.arange(12) % 10)
    assert b"".join(train.raw(i).numpy().tobytes() for i in range(12)) == pixels
    assert train.raw(3).shape == (1, 28, 28)
    assert train.class_names[9] == "Ankle boot"
    assert train.num_classes == 10


def test_files_that_are_missing_are_named(fashion: Path, tmp_path: Path) -> None:
    (fashion / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match=rf"no t10k-labels-idx1-ubyte\[\.gz\] in {fashion}"):
        load_data(f"fashion-mnist:{fashion},split=test")
    with pytest.raises(UsageError, match="no train-images"):
        load_data(f"fashion-mnist:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("size", [0, 3, 16, 17, 16 + 784, 16 + 12 * 784 - 1])
def test_truncated_images_are_refused(fashion: Path, size: int) -> None:
    path = fashion / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match="train-images-idx3-ubyte cannot be read"):
        load_data(f"fashion-mnist:{fashion}")


def test_damaged_packed_images_are_refused(fashion: Path) -> None:
    path = fashion / "train-images-idx3-ubyte.gz"
    whole = gzip.compress((fashion / "train-images-idx3-ubyte").read_bytes())
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    no_stream = whole[:10] + b"\xff" * 50 + whole[60:]
    for damaged in (whole[:-9], whole[:20], flipped, no_stream, b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"\.gz cannot be read"):
            load_data(f"fashion-mnist:{fashion}")


def test_files_of_another_kind_or_number_are_refused(fashion: Path) -> None:
    labels, images = fashion / "train-labels-idx1-ubyte", fashion / "train-images-idx3-ubyte"
    right = labels.read_bytes()
    labels.write_bytes(images.read_bytes())
    with pytest.raises(UsageError, match="not an IDX file of bytes with 1 axes"):
        load_data(f"fashion-mnist:{fashion}")
    labels.write_bytes(idx(np.frombuffer(right, np.uint8, offset=8)[:7]))
    with pytest.raises(UsageError, match="12 samples, 7 labels"):
        load_data(f"fashion-mnist:{fashion}")
