"""A labelled data set whose every sample has an id that stays its own."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...stores.checks.content import labels_fingerprint
from ...stores.errors import UsageError
from ...stores.manifest import DatasetInfo, fingerprint
from ..specs import Spec

_TEXTS_AT_ONCE = 2**16


class RawItems(Protocol):
    """Where the raw inputs come from: by position, PIL images or tensors."""

    def __getitem__(self, position: int, /) -> Any: ...


class ArrayItems:
    """Raw inputs held in memory as one uint8 array.

    Args:
        images: (N, H, W) or (N, H, W, channels) uint8.
    """

    def __init__(self, images: np.ndarray) -> None:
        if images.ndim == 3:
            images = images[..., None]
        self._images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def __getitem__(self, position: int) -> Tensor:
        return self._images[position]

    def batch(self, positions: Sequence[int]) -> Tensor:
        """Several inputs at once: (B, channels, H, W) uint8."""
        return self._images[torch.as_tensor(positions)]


@dataclass(frozen=True, kw_only=True)
class LongTail:
    """The exponential long-tail profile n_c = max(1, int(n_max * imbalance^(-c / (C - 1)))), classes in order.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, section 4.

    Attributes:
        imbalance: n_0 / n_{C-1}, at least 1.
        max_per_class: n_max; by default the size of the largest class.
        seed: which samples of a class are kept.
    """

    imbalance: float = 1.0
    max_per_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.imbalance) and self.imbalance >= 1):
            raise UsageError(f"imbalance={self.imbalance} must be at least 1 (largest class / smallest class).")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed} must be 0 or above.")
        if self.max_per_class is not None and self.max_per_class < 1:
            raise UsageError(f"max_per_class={self.max_per_class} must be at least 1.")

    def class_sizes(self, available: np.ndarray) -> np.ndarray:
        """(C,) how many samples of each class to keep, given how many there are."""
        largest = int(available.max()) if self.max_per_class is None else self.max_per_class
        exponents = np.arange(len(available)) / max(len(available) - 1, 1)
        wanted = np.maximum(1, (largest * self.imbalance**-exponents).astype(np.int64))
        return np.minimum(wanted, available)

    def select(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The positions kept, ascending."""
        sizes = self.class_sizes(np.bincount(labels, minlength=num_classes))
        generator = np.random.default_rng(self.seed)
        kept = [generator.permutation(np.flatnonzero(labels == class_id))[:size] for class_id, size in enumerate(sizes)]
        return np.sort(np.concatenate(kept))


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """A data set: raw inputs, ids, labels and class names, all by position.

    Attributes:
        spec: how the user named it.
        items: the raw inputs, by ``indices``.
        indices: (N,) int64, the index into ``items`` of every position.
        sample_ids: (N,) strings.
        labels: (N,) int64, from 0.
        class_names: one for each of the C classes.
        long_tail: how it was subsampled, if it was.
    """

    spec: str
    items: RawItems
    indices: np.ndarray
    sample_ids: pa.Array
    labels: np.ndarray
    class_names: tuple[str, ...]
    long_tail: LongTail | None = None

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise UsageError(f"The data set '{self.spec}' is empty. Check the path and the split.")
        if not len(self.labels) == len(self.sample_ids) == len(self.indices):
            raise UsageError(
                f"The data set '{self.spec}' gives {len(self.indices)} samples, {len(self.labels)} labels and "
                f"{len(self.sample_ids)} sample ids. They must be as many."
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise UsageError(
                f"The data set '{self.spec}' has labels from {low} to {high} for {len(self.class_names)} classes. "
                "Labels must count from 0."
            )
        if len(self.sample_ids.unique()) != len(self.sample_ids):
            counts = self.sample_ids.value_counts()
            twice = next(entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1)
            raise UsageError(f"The data set '{self.spec}' has the sample id '{twice}' more than once.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) samples of each class."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def raw(self, position: int) -> Any:
        """The raw input at a position."""
        return self.items[int(self.indices[position])]

    def select(self, positions: np.ndarray, long_tail: LongTail | None = None) -> "Samples":
        """The samples at ``positions``, in that order."""
        return dataclasses.replace(
            self,
            indices=self.indices[positions],
            sample_ids=self.sample_ids.take(pa.array(positions)),
            labels=self.labels[positions],
            long_tail=long_tail or self.long_tail,
        )

    def info(self) -> DatasetInfo:
        """What a manifest says of this data set."""
        return DatasetInfo(
            spec=Spec.parse(self.spec).public(),
            sample_ids=fingerprint(_texts(self.sample_ids)),
            labels=labels_fingerprint(self.labels),
            classes=fingerprint(self.class_names),
            long_tail=None if self.long_tail is None else dataclasses.asdict(self.long_tail),
        )


def _texts(ids: pa.Array) -> Iterator[str]:
    """The values of a text array as Python's, some at a time: several times faster than one by one."""
    for start in range(0, len(ids), _TEXTS_AT_ONCE):
        yield from ids[start : start + _TEXTS_AT_ONCE].to_pylist()
