"""Data sets read from arrays: scikit-learn's digits and Fashion-MNIST's IDX files."""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...stores.errors import UsageError
from ..specs import Spec
from .registry import data_source
from .samples import ArrayItems, Samples

_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FASHION_DEFAULT = "/usr/share/datasets/fashion-mnist"


@dataclass(frozen=True)
class DigitsOptions:
    """Options of ``digits``: a fixed stratified half for training, the other for testing, or all."""

    split: Literal["train", "test", "all"] = "all"


@data_source("digits")
def digits(spec: Spec) -> Samples:
    """1,797 images of 8x8 pixels, 10 classes, embedded in scikit-learn (UCI; no download)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    options = spec.into(DigitsOptions)
    bunch: Any = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    indices = np.arange(len(labels))
    if options.split != "all":
        train, test = train_test_split(indices, test_size=0.5, stratify=labels, random_state=0)
        indices = np.sort(train if options.split == "train" else test)
    return Samples(
        spec=str(spec),
        items=ArrayItems(images),
        indices=indices,
        sample_ids=pa.array([f"digits/{index}" for index in indices], pa.string()),
        labels=labels[indices],
        class_names=tuple(str(name) for name in bunch.target_names),
    )


@dataclass(frozen=True)
class FashionOptions:
    """Options of ``fashion-mnist``."""

    split: Literal["train", "test"] = "train"


@data_source("fashion-mnist")
def fashion_mnist(spec: Spec) -> Samples:
    """60,000 + 10,000 images of 28x28 pixels, 10 balanced classes (Xiao et al., arXiv 1708.07747), from IDX files.

    The location is the folder with the four files, packed or not; by default where Debian's package
    ``dataset-fashion-mnist`` puts them.
    """
    options = spec.into(FashionOptions)
    folder = Path(spec.location or _FASHION_DEFAULT)
    stem = "train" if options.split == "train" else "t10k"
    images = _read_idx(folder, f"{stem}-images-idx3-ubyte", 3)
    labels = _read_idx(folder, f"{stem}-labels-idx1-ubyte", 1).astype(np.int64)
    return Samples(
        spec=str(spec),
        items=ArrayItems(images),
        indices=np.arange(len(images)),
        sample_ids=pa.array([f"{options.split}/{index}" for index in range(len(images))], pa.string()),
        labels=labels,
        class_names=_FASHION_CLASSES,
    )


def _read_idx(folder: Path, name: str, ndim: int) -> np.ndarray:
    for path, opener in ((folder / f"{name}.gz", gzip.open), (folder / name, open)):
        if path.exists():
            try:
                with opener(path, "rb") as file:
                    magic, *shape = struct.unpack(f">{1 + ndim}I", file.read(4 + 4 * ndim))
                    if magic != 0x800 + ndim:
                        raise ValueError(f"it is not an IDX file of bytes with {ndim} axes")
                    return np.frombuffer(file.read(), np.uint8).reshape(shape)
            except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
                raise UsageError(f"{path} cannot be read: {error}. Fetch it again.") from None
    raise UsageError(
        f"There is no {name}[.gz] in {folder}. Give the folder: fashion-mnist:DIR "
        "(Debian: apt install dataset-fashion-mnist)."
    )
