"""Whether the tables agree with each other and with the manifest; :mod:`.payload_content` looks at the arrays.

A checksum says that a file is what was written; this says that what was written can be right.

Shapes: N rows of a chunk, C classes.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from ..arrays import GROUP_NAMES
from ..manifest import Manifest, fingerprint
from .report import Severity


@dataclass
class Fault:
    """One kind of contradiction in the rows of one array or table: how many rows have it, and which is the first.

    Attributes:
        where: the array's name, or "samples".
        what: follows "in N rows (first: row F)".
        severity: of the finding it becomes.
        count: rows that have it.
        first: the first of them.
    """

    where: str
    what: str
    severity: Severity
    count: int
    first: int

    def __str__(self) -> str:
        return f"{self.what} in {self.count:,} row{'s' if self.count > 1 else ''} (first: row {self.first:,})"


class Faults:
    """The contradictions of one chunk, each kind counted once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Fault] = {}

    def add(self, where: str, what: str, bad: ArrayLike, start: int, severity: Severity = "error") -> None:
        """Count the rows ``start + i`` where ``bad[i]``."""
        count = int(np.count_nonzero(bad))
        if not count:
            return
        fault = self._found.get((where, what))
        if fault is None:
            self._found[where, what] = Fault(where, what, severity, count, start + int(np.argmax(bad)))
        else:
            fault.count += count

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._found.values())


def class_problems(classes: pa.Table, manifest: Manifest) -> list[str]:
    """What is wrong with the class table."""
    if any(column.null_count for column in classes.columns):
        return ["it has missing values"]
    problems = []
    if classes["class_id"].to_pylist() != list(range(manifest.num_classes)):
        problems.append("its class ids do not count from 0")
    if fingerprint(classes["name"].to_pylist()) != manifest.dataset.classes:
        problems.append("its class names are not those whose fingerprint the manifest has")
    if not set(classes["group"].to_pylist()) <= set(GROUP_NAMES):
        problems.append(f"it has groups other than {', '.join(GROUP_NAMES)}")
    return problems


def sample_faults(samples: pa.Table, rows: range, num_classes: int, class_groups: Sequence[str] | None) -> Faults:
    """Contradictions within the samples table of some rows.

    Args:
        samples: the table; its schema and length were checked.
        rows: the rows it must be about.
        num_classes: C.
        class_groups: (C,) the group of every class; None where the class table is damaged.
    """
    faults, start = Faults(), rows.start
    nulls = np.zeros(len(rows), bool)
    for column in samples.columns:
        nulls |= column.is_null().to_numpy()
    faults.add("samples", "a value is missing", nulls, start)
    if nulls.any():
        return faults
    label, top1 = (samples[name].to_numpy() for name in ("label", "teacher_top1"))
    faults.add(
        "samples", "the row number is another", samples["row"].to_numpy() != np.arange(rows.start, rows.stop), start
    )
    known = (label >= 0) & (label < num_classes)
    faults.add("samples", "the label is no class", ~known, start)
    if class_groups is not None:
        expected = np.array(class_groups)[np.where(known, label, 0)]
        differs = known & (samples["group"].to_numpy() != expected)
        faults.add("samples", "the group is not that of the label's class", differs, start)
    faults.add("samples", "teacher_top1 is no class", (top1 < 0) | (top1 >= num_classes), start)
    correct = samples["teacher_correct"].to_numpy()
    faults.add(
        "samples", "teacher_correct does not say whether teacher_top1 is the label", correct != (top1 == label), start
    )
    # NaN compares false; the margin is float32 rounding of a sum over the classes
    confidence, entropy = (samples[name].to_numpy() for name in ("teacher_confidence", "teacher_entropy"))
    faults.add("samples", "teacher_confidence is no probability", ~((confidence >= 0) & (confidence <= 1.001)), start)
    largest = math.log(num_classes) * 1.001 + 0.001
    faults.add("samples", "teacher_entropy is out of range", ~((entropy >= -0.001) & (entropy <= largest)), start)
    return faults


def ids_that_repeat(sample_ids: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """The sample ids that occur more than once (the first few), and the rows of each."""
    if len(sample_ids.unique()) == len(sample_ids):
        return {}
    codes = sample_ids.combine_chunks().dictionary_encode()
    indices = codes.indices.to_numpy()
    repeated = np.flatnonzero(np.bincount(indices) > 1)
    return {codes.dictionary[int(code)].as_py(): np.flatnonzero(indices == code) for code in repeated[:100]}


def labels_fingerprint(labels: np.ndarray) -> str:
    """The fingerprint of ordered labels, as an extraction records it: SHA-256 over them as little-endian int64."""
    return f"sha256:{hashlib.sha256(labels.astype('<i8').tobytes()).hexdigest()}"
