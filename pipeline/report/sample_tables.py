"""What a store's sample tables say of its teacher: accuracy, calibration, entropy and confusion, in one streaming pass.

Every store has these tables whatever its codec, and they were computed from the teacher's float32 logits before
anything was rounded or left out: all of this is exact, of every store.

Shapes: n rows, C classes, G groups, B bins.
"""

from dataclasses import dataclass, field

import numpy as np

from ...stores import CorruptStoreError, Store
from ...stores.arrays import GROUP_NAMES

CONFIDENCE_BINS = 15
ENTROPY_BINS = 20
_COLUMNS = ("label", "teacher_top1", "teacher_confidence", "teacher_entropy")
_NUM_GROUPS = len(GROUP_NAMES)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence against accuracy, in bins of equal width over [0, 1].

    Attributes:
        counts: rows by bin.
        confidence: mean confidence by bin; NaN where a bin is empty.
        accuracy: fraction of correct rows by bin; NaN where a bin is empty.
        ece: the expected calibration error, ``sum_b (n_b / n) |accuracy_b - confidence_b|`` (Guo, Pleiss, Sun,
            Weinberger, "On Calibration of Modern Neural Networks", section 2, https://arxiv.org/abs/1706.04599).
        gap: mean confidence minus accuracy over all rows: above 0 the teacher is overconfident.
    """

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    ece: float
    gap: float

    @classmethod
    def of_sums(cls, counts: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> "Reliability":
        """From the sums (B,) of each bin: rows, confidences, correct rows."""
        total = max(int(counts.sum()), 1)
        with np.errstate(invalid="ignore"):
            means, accuracy = confidence / counts, correct / counts
        return cls(
            counts=tuple(counts.astype(int).tolist()),
            confidence=tuple(means.tolist()),
            accuracy=tuple(accuracy.tolist()),
            ece=float(np.abs(confidence - correct).sum() / total),
            gap=float((confidence.sum() - correct.sum()) / total),
        )


@dataclass(frozen=True, kw_only=True)
class SampleStatistics:
    """What the sample tables say. Groups are those of the classes: 0 head, 1 medium, 2 tail.

    Attributes:
        rows: samples looked at.
        class_rows: samples of each class, (C,).
        class_correct: of these, how many the teacher names first.
        confusion: (G, G) samples, by the group of the label and the group of the class the teacher names first.
        reliability: by group name, and "all"; a group without samples is left out.
        entropy: mean entropy at T = 1 in nats, by group name and "all".
        entropy_counts: by group name, rows by entropy in ``ENTROPY_BINS`` equal bins from 0 to log C.
    """

    rows: int
    class_rows: tuple[int, ...]
    class_correct: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: dict[str, Reliability]
    entropy: dict[str, float]
    entropy_counts: dict[str, tuple[int, ...]]


@dataclass(kw_only=True)
class _Sums:
    """Sums over the rows so far; their size does not depend on the number of rows."""

    class_groups: np.ndarray
    class_rows: np.ndarray = field(init=False)
    class_correct: np.ndarray = field(init=False)
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((_NUM_GROUPS, _NUM_GROUPS), np.int64))
    # rows, confidence, correct, each by group and bin
    bins: np.ndarray = field(default_factory=lambda: np.zeros((3, _NUM_GROUPS, CONFIDENCE_BINS)))
    entropy: np.ndarray = field(default_factory=lambda: np.zeros(_NUM_GROUPS))
    entropy_counts: np.ndarray = field(default_factory=lambda: np.zeros((_NUM_GROUPS, ENTROPY_BINS), np.int64))

    def __post_init__(self) -> None:
        self.class_rows = np.zeros(len(self.class_groups), np.int64)
        self.class_correct = np.zeros(len(self.class_groups), np.int64)

    def add(self, labels: np.ndarray, top1: np.ndarray, confidence: np.ndarray, entropy: np.ndarray) -> None:
        """Count some rows: (n,) each."""
        num_classes, groups, correct = len(self.class_groups), self.class_groups[labels], top1 == labels
        self.class_rows += np.bincount(labels, minlength=num_classes)
        self.class_correct += np.bincount(labels[correct], minlength=num_classes)
        self.confusion += _count(groups, self.class_groups[top1], (_NUM_GROUPS, _NUM_GROUPS))
        bins = confidence_bin(confidence)
        for sums, weights in zip(self.bins, (np.ones(len(labels)), confidence, correct), strict=True):
            sums += _count(groups, bins, sums.shape, weights)
        self.entropy += np.bincount(groups, entropy, minlength=_NUM_GROUPS)
        places = np.clip(entropy / np.log(num_classes) * ENTROPY_BINS, 0, ENTROPY_BINS - 1).astype(np.int64)
        self.entropy_counts += _count(groups, places, self.entropy_counts.shape)

    def result(self) -> SampleStatistics:
        """The statistics of all rows so far."""
        rows = np.bincount(self.class_groups, self.class_rows, minlength=_NUM_GROUPS)
        present = [group for group in range(_NUM_GROUPS) if rows[group]]
        reliability = {GROUP_NAMES[group]: Reliability.of_sums(*self.bins[:, group]) for group in present}
        total = int(self.class_rows.sum())
        return SampleStatistics(
            rows=total,
            class_rows=tuple(self.class_rows.tolist()),
            class_correct=tuple(self.class_correct.tolist()),
            confusion=tuple(map(tuple, self.confusion.tolist())),
            reliability={"all": Reliability.of_sums(*self.bins.sum(1)), **reliability},
            entropy={
                "all": float(self.entropy.sum() / total),
                **{GROUP_NAMES[group]: float(self.entropy[group] / rows[group]) for group in present},
            },
            entropy_counts={GROUP_NAMES[group]: tuple(self.entropy_counts[group].tolist()) for group in present},
        )


def sample_statistics(store: Store) -> SampleStatistics:
    """Read the sample tables of a store, one row block after the other.

    Raises:
        CorruptStoreError: a table is damaged, or holds what cannot be.
    """
    sums = _Sums(class_groups=store.class_groups)
    for block in range(store.manifest.grid.chunks_per_view):
        table = store.samples(_COLUMNS, blocks=[block])
        labels, top1 = (class_ids(store, table[name].to_numpy()) for name in _COLUMNS[:2])
        confidence, entropy = (table[name].to_numpy().astype(np.float64) for name in _COLUMNS[2:])
        if not np.isfinite(confidence).all() or not np.isfinite(entropy).all():
            raise CorruptStoreError(f"The sample tables of {store} hold a confidence or entropy that is not finite.")
        sums.add(labels, top1, confidence, entropy)
    return sums.result()


def class_ids(store: Store, values: np.ndarray) -> np.ndarray:
    """Stored class ids as int64.

    Raises:
        CorruptStoreError: one is no class of the store.
    """
    if values.size and not 0 <= values.min() <= values.max() < store.manifest.num_classes:
        raise CorruptStoreError(f"{store} names classes that it does not have. Look with: kdpipe store verify --deep.")
    return values.astype(np.int64)


def confidence_bin(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence; the bins are (0, 1/B], (1/B, 2/B], ... as in the paper."""
    return np.clip(np.ceil(confidence * CONFIDENCE_BINS) - 1, 0, CONFIDENCE_BINS - 1).astype(np.int64)


def _count(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...], weights: np.ndarray | None = None
) -> np.ndarray:
    """A two-dimensional histogram of integers, of the shape given."""
    counts = np.bincount(rows * shape[1] + columns, weights, minlength=shape[0] * shape[1])
    return counts.reshape(shape)
