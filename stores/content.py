"""Whether stored values agree with each other: samples with classes, ranks with logits, rows with the manifest.

A checksum says that a file is what was written; this says that what was written can be right.

Shapes: N rows of a chunk, n rows of a slice of it, C classes, D rank depth.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from .layout import array_file
from .manifest import GROUP_NAMES, ArrayInfo, Manifest, fingerprint
from .payload import fill_value
from .report import Severity

# a slice of rows is compared at a time, so that neither memory nor the cache overflows
_SLICE_ELEMENTS = 2**19


@dataclass
class Fault:
    """One kind of contradiction in the rows of one array or table: how many rows have it, and which is the first.

    Attributes:
        where: "logits", "ranks" or "samples".
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


def payload_faults(root: Path, manifest: Manifest, chunk: int, names: Sequence[str], top1: np.ndarray | None) -> Faults:
    """Contradictions within the arrays of one chunk, and with what the samples table says of them.

    Args:
        root: the store.
        manifest: of the store.
        chunk: which chunk.
        names: the arrays to look at: those whose files are the size they must be.
        top1: (N,) the teacher's best class of every row by the samples table, if there is one to compare with.

    Raises:
        OSError: a file cannot be read.
    """
    grid, faults = manifest.grid, Faults()
    rows = grid.rows(chunk)
    infos = [array for array in manifest.arrays if array.name in names]
    paths = {info.name: root / array_file(info.name, grid.view(chunk), grid.block(chunk)) for info in infos}
    step = max(1, _SLICE_ELEMENTS // max([info.width for info in infos], default=1))
    for begin in range(0, len(rows), step):
        end = min(begin + step, len(rows))
        values = {info.name: _read(paths[info.name], info, begin, end) for info in infos}
        part = None if top1 is None else top1[begin:end]
        _compare(faults, rows.start + begin, manifest.num_classes, values, part)
    for info in infos:
        _check_padding(faults, paths[info.name], info, rows, grid.chunk_rows)
    return faults


def _read(path: Path, info: ArrayInfo, begin: int, end: int) -> np.ndarray:
    dtype = np.dtype(info.dtype).newbyteorder("<")
    count = (end - begin) * info.width
    values = np.fromfile(path, dtype, count, offset=begin * info.row_bytes)
    if len(values) < count:
        raise OSError(f"{path} was cut while it was read")
    return values.reshape(-1, info.width)


def _compare(
    faults: Faults, start: int, num_classes: int, values: Mapping[str, np.ndarray], top1: np.ndarray | None
) -> None:
    """Compare a slice of rows, beginning with row ``start``."""
    logits, ranks = values.get("logits"), values.get("ranks")
    finite: np.ndarray | None = None
    if logits is not None:
        logits = logits.astype(np.float32, copy=False)
        finite = np.asarray(np.isfinite(logits).all(1))
        faults.add("logits", "the logits are not finite", ~finite, start)
        highest = logits.max(1)
        flat = finite & (highest == logits.min(1))
        faults.add("logits", "all logits are equal: the teacher prefers no class", flat, start, "warning")
        if top1 is not None and ranks is None:
            known = finite & (top1 >= 0) & (top1 < num_classes)
            best = logits[np.arange(len(logits)), np.where(known, top1, 0)]
            faults.add("samples", "teacher_top1 is not the class of the highest logit", known & (best < highest), start)
    if ranks is None:
        return
    known = (ranks < num_classes).all(1)
    faults.add("ranks", "a rank is no class", ~known, start)
    # one number for each (row, class); rows with a rank that is no class are set aside
    places = ranks.astype(np.int64) + num_classes * np.arange(len(ranks))[:, None]
    if not known.all():
        places[~known] = 0
    seen = np.zeros((len(ranks), num_classes), bool)
    seen.reshape(-1)[places] = True
    distinct = np.count_nonzero(seen, axis=1) == ranks.shape[1]
    faults.add("ranks", "a class is ranked twice", known & ~distinct, start)
    if top1 is not None:
        faults.add("samples", "teacher_top1 is not the first rank", known & (ranks[:, 0] != top1), start)
    if logits is not None and finite is not None:
        _compare_order(faults, start, logits, places, seen, finite & known & distinct)


def _compare_order(
    faults: Faults, start: int, logits: np.ndarray, places: np.ndarray, seen: np.ndarray, usable: np.ndarray
) -> None:
    """Whether the logits fall along the ranks: rounding makes neighbours equal, it never turns them round."""
    ordered = logits.reshape(-1)[places]
    falling = (ordered[:, 1:] <= ordered[:, :-1]).all(1)
    if places.shape[1] < logits.shape[1]:
        falling &= np.where(seen, -np.inf, logits).max(1) <= ordered[:, -1]
    faults.add("ranks", "the ranks are not the order of the logits", usable & ~falling, start)


def _check_padding(faults: Faults, path: Path, info: ArrayInfo, rows: range, chunk_rows: int) -> None:
    """The rows after the last one hold the fill value."""
    step = max(1, _SLICE_ELEMENTS // info.width)
    for begin in range(len(rows), chunk_rows, step):
        padding = _read(path, info, begin, min(begin + step, chunk_rows))
        filled = np.isnan(padding) if info.name == "logits" else padding == fill_value(info)
        faults.add(info.name, "the padding is not the fill value", ~filled.all(1), rows.start + begin)


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
