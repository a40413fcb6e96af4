"""FKD's soft labels: for each image a file of torch.save with crops, flips and the best classes of every crop.

    SOURCE/CLASS/IMAGE.tar      [crops (V, 4): top, left, height, width in fractions of the image; flips (V,);
                                 labels (V, 2, K): class ids, then probabilities]

Zhiqiang Shen and Eric Xing, "A Fast Knowledge Distillation Framework for Visual Recognition",
https://arxiv.org/abs/2112.01528; the layout: https://github.com/szq0214/FKD.

Shapes: N samples, n rows of a chunk, V crops, K kept classes.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from ...stores.errors import KdpipeError, MismatchError, UsageError
from .best_classes import BestClasses, folder_checksum

# crops kept in float16 may pass the image's border by their rounding
_CROP_ROOM = 2e-3


class FkdStore:
    """The soft labels of some images; a crop is a view.

    Args:
        source: the folder of the class folders.
        sample_ids: (N,) the images' paths under it, in the order of the rows; what follows the first dot of a file's
            name is replaced by ``.tar``.

    Attributes:
        k: K.
        num_views: V.
        checksum: over the files of all samples.

    Raises:
        MismatchError: a sample has no file.
        UsageError: the labels are of a kind that has no probabilities.
        KdpipeError: a file is damaged, or reading it would run code.
    """

    def __init__(self, source: Path, sample_ids: pa.Array) -> None:
        self._files = [source / _label_file(sample) for sample in sample_ids.to_pylist()]
        missing = [path for path in self._files if not path.is_file()]
        if missing:
            raise MismatchError(
                f"{len(missing):,} of {len(self._files):,} samples have no file of labels; the first is {missing[0]}. "
                "Give the images' paths under SOURCE as ids."
            )
        self.num_views, _, self.k = _read(self._files[0]).labels.shape
        self.checksum = folder_checksum(sorted(self._files), source)
        self._rows, self._kept = range(0), []

    def read(self, view: int, rows: range) -> BestClasses:
        """(n, K) class ids and probabilities of a crop of some rows, of which all crops are kept for the next call.

        Raises:
            MismatchError: an image has another number of crops or classes.
            KdpipeError: a file is damaged, or reading it would run code.
        """
        kept = [image.labels[view] for image in self._images(rows)]
        return np.stack([label[0] for label in kept]), np.stack([label[1] for label in kept])

    def geometry(self, view: int, rows: range) -> dict[str, np.ndarray]:
        """``boxes`` (n, 4) and ``flips`` (n, 1) of a crop of some rows, as stores have them; raises as :meth:`read`."""
        images = self._images(rows)
        boxes, flips = np.stack([i.boxes[view] for i in images]), np.array([[i.flips[view]] for i in images], np.uint8)
        return {"boxes": boxes, "flips": flips}

    def _images(self, rows: range) -> "list[_Image]":
        if rows != self._rows:
            self._kept = [self._checked(path) for path in self._files[rows.start : rows.stop]]
            self._rows = rows
        return self._kept

    def _checked(self, path: Path) -> "_Image":
        image = _read(path)
        if image.labels.shape != (self.num_views, 2, self.k):
            raise MismatchError(
                f"{path} has {len(image.labels)} crops with the best {image.labels.shape[-1]} classes, the first file "
                f"has {self.num_views} with {self.k}."
            )
        return image


@dataclass(frozen=True)
class _Image:
    """What is known of an image: boxes (V, 4) left, top, right, bottom; flips (V,); labels (V, 2, K)."""

    boxes: np.ndarray
    flips: np.ndarray
    labels: np.ndarray


def _label_file(sample_id: str) -> PurePosixPath:
    path = PurePosixPath(sample_id)
    if path.is_absolute() or ".." in path.parts:
        raise MismatchError(f"The sample id '{sample_id}' is no path under SOURCE. Give the images' paths.")
    return path.with_name(f"{path.name.partition('.')[0]}.tar")


def _read(path: Path) -> _Image:
    content = _load(path)
    is_triple = isinstance(content, list | tuple) and len(content) == 3
    if not is_triple or not all(hasattr(part, "shape") for part in content):
        raise UsageError(f"{path} is no list of crops, flips and labels, as FKD writes.")
    crops, flips, labels = (np.asarray(part) for part in content)
    if labels.ndim == 2 and labels.shape[1] == 2:  # "smoothing": the best class alone
        labels = labels[:, :, None]
    if labels.ndim != 3 or labels.shape[1] != 2 or labels.dtype.kind != "f":
        raise UsageError(
            f"The labels in {path} are {labels.dtype} of shape {labels.shape}, not (crops, 2, K): hard labels have no "
            "probabilities, and whole distributions are imported as an array of their logarithms."
        )
    count = len(labels)
    if (
        crops.shape != (count, 4)
        or crops.dtype.kind != "f"
        or flips.shape != (count,)
        or not np.isin(flips, (0, 1)).all()
    ):
        raise UsageError(f"{path} has {count} labels, and no crop (four fractions) and flip for each.")
    top, left, height, width = crops.astype(np.float32).T
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    inside = (boxes >= 0).all(1) & (boxes <= 1 + _CROP_ROOM).all(1) & (height > 0) & (width > 0)  # NaN compares false
    if not inside.all():
        raise UsageError(f"{path} has a crop that is no part of the image: {crops[~inside][0].tolist()}.")
    return _Image(boxes, flips, labels.astype(np.float32))


def _load(path: Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, AttributeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise KdpipeError(f"{path} cannot be read without running code, or is damaged ({reason}).") from None


def _numpy_globals() -> list[Any]:
    """What pickles of plain NumPy arrays name, by its new and its old address: these make arrays, and nothing else."""
    rebuild: Any = np.zeros(1).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    names = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [np.ndarray, np.dtype, *dtypes, *names]
