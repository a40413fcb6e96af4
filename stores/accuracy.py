"""Accuracy overall, over classes and by class group, from counts that add up over batches and processes."""

from pathlib import Path

import numpy as np

from .arrays import GROUP_NAMES
from .layout import samples_file
from .manifest import Accuracy, Manifest
from .tables import SAMPLES_SCHEMA, read_parquet


class AccuracyTally:
    """Counts samples and correct predictions by class.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self.totals = np.zeros(num_classes, np.int64)
        self.correct = np.zeros(num_classes, np.int64)

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Count a batch: (B,) labels and (B,) predicted classes."""
        size = len(self.totals)
        self.totals += np.bincount(labels, minlength=size)
        self.correct += np.bincount(labels[predictions == labels], minlength=size)

    def accuracy(self, class_groups: np.ndarray) -> Accuracy:
        """The fractions so far; a group without samples has none.

        Args:
            class_groups: (C,) 0 head, 1 medium, 2 tail.
        """
        seen = self.totals > 0
        by_group = {
            name: _fraction(self.correct[class_groups == group], self.totals[class_groups == group])
            for group, name in enumerate(GROUP_NAMES)
        }
        return Accuracy(
            overall=_fraction(self.correct, self.totals) or 0.0,
            balanced=float((self.correct[seen] / self.totals[seen]).mean()) if seen.any() else 0.0,
            **by_group,
        )


def stored_accuracy(root: Path, manifest: Manifest, class_groups: np.ndarray) -> Accuracy:
    """The teacher's accuracy on view 0, from the samples tables of a store, one row block at a time.

    Args:
        root: the folder of the store; all its chunks are there.
        manifest: of the store.
        class_groups: (C,) 0 head, 1 medium, 2 tail.

    Raises:
        CorruptStoreError: a table cannot be read.
    """
    grid, tally = manifest.grid, AccuracyTally(manifest.num_classes)
    for block in range(grid.chunks_per_view):
        columns = ["label", "teacher_top1"]
        table = read_parquet(root / samples_file(block), SAMPLES_SCHEMA, len(grid.rows(block)), columns)
        tally.add(table["label"].to_numpy(), table["teacher_top1"].to_numpy())
    return tally.accuracy(class_groups)


def _fraction(correct: np.ndarray, totals: np.ndarray) -> float | None:
    return float(correct.sum() / totals.sum()) if totals.sum() else None
