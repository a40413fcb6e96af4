"""Class groups: which classes are head, medium and tail.

Groups are numbers in code (0 head, 1 medium, 2 tail) and names in a store.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from .arrays import GROUP_NAMES
from .errors import UsageError, unknown


def assign_groups(rule: str, class_counts: np.ndarray, class_names: Sequence[str]) -> tuple[np.ndarray, str]:
    """The group of every class.

    Args:
        rule: ``thirds``: classes by descending training count, first 33 % head, next 34 % medium, last 33 %
            tail (LTKD, arXiv 2506.18496); ``counts:A,B``: more than A head, A to B medium, fewer than B tail; or
            the path of a CSV or Parquet file with columns ``class`` (name or number) and ``group``, or a store's own
            ``classes.parquet``, whose columns are ``name`` and ``group``.
        class_counts: (C,) training samples of each class.
        class_names: the C names.

    Returns:
        (C,) int64 groups, and the rule as a manifest records it.

    Raises:
        UsageError: unknown rule, bad thresholds, or a file that leaves a class out or names an unknown one.
    """
    kind, _, location = rule.partition(":")
    if rule == "thirds":
        return _thirds(class_counts), rule
    if rule == "single":
        return np.zeros(len(class_counts), np.int64), rule
    if kind == "counts":
        return _by_counts(location, class_counts), rule
    path = Path(location if kind == "file" else rule)
    if path.suffix.lower() in (".csv", ".parquet"):
        groups = _from_file(path, class_names)
        return groups, f"file:{path.name}#{hashlib.sha256(groups.tobytes()).hexdigest()[:16]}"
    raise unknown("group rule", rule, ["thirds", "counts:100,20", "single", "FILE.csv", "FILE.parquet"])


def group_names(groups: np.ndarray) -> list[str]:
    """The names of numbered groups."""
    return [GROUP_NAMES[group] for group in groups]


def _thirds(class_counts: np.ndarray) -> np.ndarray:
    num_classes = len(class_counts)
    ends = max(1, round(num_classes * 0.33))  # 33 of 100, 66 of 200, 330 of 1000; two each of six classes
    order = np.argsort(-class_counts, kind="stable")
    groups = np.ones(num_classes, np.int64)
    groups[order[:ends]] = 0
    groups[order[num_classes - ends :]] = 2
    return groups


def _by_counts(thresholds: str, class_counts: np.ndarray) -> np.ndarray:
    try:
        above, below = (int(part) for part in thresholds.split(","))
    except ValueError:
        raise UsageError(f"The group rule 'counts:{thresholds}' must be two counts: counts:100,20.") from None
    if above < below:
        raise UsageError(f"The group rule 'counts:{thresholds}' must give the larger count first: counts:100,20.")
    return np.where(class_counts > above, 0, np.where(class_counts < below, 2, 1)).astype(np.int64)


def _from_file(path: Path, class_names: Sequence[str]) -> np.ndarray:
    if not path.is_file():
        raise UsageError(f"The group file {path} cannot be read: there is no such file.")
    try:
        if path.suffix.lower() == ".csv":  # as text: a class named "007" is not number 7
            texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("class", "name", "group"), pa.string()))
            table = pyarrow.csv.read_csv(path, convert_options=texts)
        else:
            table = pyarrow.parquet.read_table(path)
        column = "class" if "class" in table.column_names else "name"
        classes = [str(value) for value in table[column].to_pylist()]
        names = [str(value) for value in table["group"].to_pylist()]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UsageError(
            f"The group file {path} cannot be read: {error}. It needs columns class (or name) and group."
        ) from None
    numbers = {name: number for number, name in enumerate(class_names)}
    by_position = {str(number): number for number in range(len(class_names))}
    groups = np.full(len(class_names), -1, np.int64)
    for class_, name in zip(classes, names, strict=True):
        number = numbers.get(class_, by_position.get(class_))
        if number is None:
            raise unknown(f"class in {path}", class_, list(class_names)[:50])
        if name not in GROUP_NAMES:
            raise unknown(f"group in {path}", name, GROUP_NAMES)
        if groups[number] not in (-1, GROUP_NAMES.index(name)):
            raise UsageError(f"The group file {path} puts the class '{class_}' into two groups. Give it one.")
        groups[number] = GROUP_NAMES.index(name)
    if (missing := np.flatnonzero(groups < 0)).size:
        raise UsageError(
            f"The group file {path} leaves out {missing.size} classes, the first is '{class_names[missing[0]]}'. "
            "Give every class a group."
        )
    return groups
