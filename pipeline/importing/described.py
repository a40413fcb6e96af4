"""What is said of imported rows beside their logits: sample ids, labels, class names.

Shapes: N samples, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...stores.checks.content import labels_fingerprint
from ...stores.errors import MismatchError, UsageError
from ...stores.manifest import DatasetInfo, fingerprint
from .files import member, read_arrays

_TEXTS = (".txt", ".csv", ".tsv", "")


@dataclass(frozen=True, kw_only=True)
class Described:
    """The rows of an imported store, and its classes.

    Attributes:
        sample_ids: (N,) texts, each once.
        labels: (N,) int64, from 0.
        class_names: C.
    """

    sample_ids: pa.Array
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.sample_ids):
            raise MismatchError(f"There are {len(self.labels):,} labels for {len(self.sample_ids):,} sample ids.")
        if not len(self.labels):
            raise UsageError("There are no samples to import.")
        if len(set(self.class_names)) < len(self.class_names):
            raise UsageError("A class name is there twice. Give every class its own.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise MismatchError(f"Labels go from {low} to {high}, there are {len(self.class_names)} classes from 0.")
        if len(self.sample_ids.unique()) < len(self.sample_ids):
            counts = self.sample_ids.value_counts()
            twice = next(entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1)
            raise MismatchError(f"The sample id '{twice}' is there more than once. Ids must tell samples apart.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) samples of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def info(self, spec: str) -> DatasetInfo:
        """What a manifest says of them; ``spec`` names where they came from."""
        return DatasetInfo(
            spec=spec,
            sample_ids=fingerprint(self.sample_ids.to_pylist()),
            labels=labels_fingerprint(self.labels),
            classes=fingerprint(self.class_names),
        )


def read_list(where: str, source: Path, arrays: Mapping[str, Any]) -> list[Any] | np.ndarray:
    """A list of texts or numbers: the name of an array beside the logits, or a file.

    Args:
        where: an array of ``source``, or a file: .npy, .npz or .pt with one array, or a text with one value a line.
        source: the file of the logits.
        arrays: in it.

    Raises:
        UsageError: there is neither.
    """
    if where in arrays:
        return _flat(member(arrays, where, source), where)
    path = Path(where)
    if not path.is_file():
        named = f" nor an array of {source}, which has {', '.join(arrays)}" if arrays else ""
        raise UsageError(f"'{where}' is no file{named}. Give a file with one value a line, or the name of an array.")
    if path.suffix.lower() in _TEXTS:
        try:
            return path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UsageError(f"{path} is no text in UTF-8.") from None
    inside = read_arrays(path)
    if len(inside) != 1:
        raise UsageError(f"{path} holds {len(inside)} arrays ({', '.join(inside)}). Give a file with one.")
    return _flat(member(inside, next(iter(inside)), path), str(path))


def as_ids(values: list[Any] | np.ndarray) -> pa.Array:
    """Sample ids as texts: texts stay, whole numbers are written in decimal.

    Raises:
        UsageError: they are something else.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "UiuS":
            raise UsageError(f"Sample ids are {values.dtype}: they must be texts or whole numbers.")
        values = values.astype(str).tolist()
    if not all(isinstance(value, str | int) for value in values):
        raise UsageError("Sample ids must be texts or whole numbers.")
    return pa.array([str(value) for value in values], pa.string())


def as_labels(values: list[Any] | np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """Labels as int64: class numbers, or class names.

    Raises:
        UsageError: one is neither.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    texts = array.astype(str).tolist() if array.dtype.kind in "US" else []
    if len(texts) < len(array):
        raise UsageError(f"Labels are {array.dtype}: they must be class numbers or class names.")
    try:
        return np.array([numbers[text] if text in numbers else int(text) for text in texts], np.int64)
    except ValueError:
        strange = next(text for text in texts if text not in numbers and not text.lstrip("-").isdecimal())
        raise UsageError(f"The label '{strange}' is neither a class name nor a class number.") from None


def _flat(values: Any, name: str) -> list[Any] | np.ndarray:
    if isinstance(values, list | tuple):
        return list(values)
    array = np.asarray(values[:] if hasattr(values, "shape") else values)
    if array.ndim != 1:
        raise UsageError(f"'{name}' has the shape {array.shape}: one value for each row is needed.")
    return array
