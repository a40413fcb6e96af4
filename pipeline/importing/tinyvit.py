"""TinyViT's saved teacher logits: for each epoch a folder, in it for each rank the keys, and records of one size.

    SOURCE/logits_top100_epoch0/rank0-keys.txt      one key a line
                                rank0-values.bin    for each key: int32 seed, K int16 classes, K float16 probabilities

Kan Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", https://arxiv.org/abs/2207.10666;
the layout: https://github.com/microsoft/Cream/tree/main/TinyViT, data/augmentation.

Shapes: N samples, n rows of a chunk, K kept classes.
"""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...stores.errors import CorruptStoreError, MismatchError, UsageError
from .best_classes import BestClasses, folder_checksum

_EPOCH = re.compile(r"logits_top(\d{1,5})_epoch(\d{1,6})")
_RANK = re.compile(r"rank(\d{1,6})-keys\.txt")


class TinyVitStore:
    """The records of some samples in every epoch; an epoch is a view.

    Args:
        source: one epoch's folder, or the folder of several.
        sample_ids: (N,) the keys, in the order of the rows.

    Attributes:
        k: K.
        num_views: how many epochs there are.
        checksum: over all files.

    Raises:
        UsageError: this is no such folder, or epochs keep different numbers of classes.
        CorruptStoreError: keys and records do not go together.
    """

    def __init__(self, source: Path, sample_ids: pa.Array) -> None:
        self._source, self._sample_ids = source, sample_ids
        found = epochs(source)
        if len({k for k, _ in found.values()}) > 1:
            raise UsageError(f"The epochs in {source} keep different numbers of classes. Import them one by one.")
        self._folders = [folder for _, (_, folder) in sorted(found.items())]
        self.k = next(iter(found.values()))[0]
        self.num_views = len(self._folders)
        files = sorted(path for folder in self._folders for path in folder.iterdir() if path.is_file())
        self.checksum = folder_checksum(files, source)
        self._record = np.dtype(
            [("seed", "<i4"), ("classes", "<i2", (self.k,)), ("probabilities", "<f2", (self.k,))]
        )  # fmt: skip
        self._view, self._parts, self._places = -1, [], np.empty((0, 2), np.int64)

    def read(self, view: int, rows: range) -> BestClasses:
        """(n, K) class ids and probabilities of some rows.

        Raises:
            MismatchError: a sample has no record in this epoch.
            CorruptStoreError: keys and records do not go together.
        """
        if view != self._view:
            self._open(view)
        records = np.empty(len(rows), self._record)
        places = self._places[rows.start : rows.stop]
        for number, part in enumerate(self._parts):
            here = places[:, 0] == number
            records[here] = part[places[here, 1]]
        return records["classes"], records["probabilities"]

    def _open(self, view: int) -> None:
        """Map the records of an epoch, and find those of the samples; a key that two ranks have counts once."""
        found: dict[str, tuple[int, int]] = {}
        self._parts = []
        for number, keys_file in enumerate(_ranks(self._folders[view])):
            keys = keys_file.read_text(encoding="utf-8-sig").splitlines()
            self._parts.append(self._records(keys_file, len(keys)))
            for place, key in enumerate(keys):
                found.setdefault(key.strip(), (number, place))
        missing = [sample for sample in self._sample_ids.to_pylist() if sample not in found]
        if missing:
            raise MismatchError(
                f"{len(missing):,} of {len(self._sample_ids):,} sample ids are no keys of {self._folders[view]}; the "
                f"first is '{missing[0]}', and a key there is '{next(iter(found), '')}'. Give the keys as ids."
            )
        self._places = np.array([found[sample] for sample in self._sample_ids.to_pylist()], np.int64)
        self._view = view

    def _records(self, keys_file: Path, count: int) -> np.ndarray:
        path = keys_file.with_name(keys_file.name.replace("-keys.txt", "-values.bin"))
        size = path.stat().st_size if path.is_file() else 0
        if size != count * self._record.itemsize:
            raise CorruptStoreError(
                f"{path} has {size:,} bytes; {count:,} keys and the best {self.k} classes need "
                f"{count * self._record.itemsize:,}. The file is cut, or of another kind."
            )
        return np.memmap(path, self._record, "r") if count else np.empty(0, self._record)


def is_tinyvit(source: Path) -> bool:
    """Whether a folder has TinyViT's names."""
    return bool(epochs(source, strict=False))


def epochs(source: Path, *, strict: bool = True) -> dict[int, tuple[int, Path]]:
    """By epoch, K and the folder."""
    folders = [source, *sorted(path for path in source.iterdir() if path.is_dir())] if source.is_dir() else []
    named = [(match, folder) for folder in folders if (match := _EPOCH.fullmatch(folder.name)) and _ranks(folder)]
    if not named and strict:
        raise UsageError(f"{source} has no folders logits_topK_epochE with files rankR-keys.txt.")
    return {int(match[2]): (int(match[1]), folder) for match, folder in named}


def _ranks(folder: Path) -> list[Path]:
    """The files of keys, by rank."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _RANK.fullmatch(path.name))}
    return [path for _, path in sorted(found.items())]
