"""Class maps: which of a teacher's classes become which classes of a student."""

import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from ..errors import UsageError, unknown


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """New classes, each made of one or several of the old ones; no old class is in two.

    Attributes:
        num_old: how many classes there were.
        names: of the new classes, in their order.
        members: the old class ids of each.
    """

    num_old: int
    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, path: Path, old_names: Sequence[str]) -> "ClassMap":
        """Read a class map: CSV or Parquet with columns ``teacher`` and ``student``, or TOML.

        A row says that a teacher's class (its name, or its number) becomes a student's, or a part of it. The student's
        classes are in the order in which they are first named. In TOML, the table ``[classes]`` has a key for each of
        the student's classes, and a list of the teacher's.

        Args:
            path: of the file.
            old_names: the teacher's classes.

        Raises:
            UsageError: the file cannot be read, names a class that the teacher has not, or one in two places, or has
                fewer than two new classes.
        """
        readers = {".csv": _csv_pairs, ".parquet": _parquet_pairs, ".toml": _toml_pairs}
        if path.suffix.lower() not in readers:
            raise UsageError(f"The class map {path} is none of {', '.join(readers)}.")
        if not path.is_file():
            raise UsageError(f"The class map {path} cannot be read: there is no such file.")
        try:
            pairs = readers[path.suffix.lower()](path)
        except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError, TypeError) as error:
            raise UsageError(
                f"The class map {path} cannot be read: {error}. It needs columns teacher and student, or in TOML a "
                'table [classes] of lists: "student" = ["teacher", ...].'
            ) from None
        number = class_numbers((old for old, _ in pairs), old_names, str(path))
        members: dict[str, list[int]] = {}
        for (_, new), old in zip(pairs, number, strict=True):
            members.setdefault(new, []).append(old)
        return cls(num_old=len(old_names), names=tuple(members), members=tuple(map(tuple, members.values())))._checked(
            old_names
        )

    @classmethod
    def selection(cls, numbers: Iterable[int], old_names: Sequence[str]) -> "ClassMap":
        """Keep some classes, under their names and in their order."""
        kept = sorted(set(numbers))
        names = tuple(old_names[number] for number in kept)
        return cls(num_old=len(old_names), names=names, members=tuple((number,) for number in kept))._checked(old_names)

    @classmethod
    def identity(cls, names: Sequence[str]) -> "ClassMap":
        """All classes as they are."""
        return cls.selection(range(len(names)), names)

    @property
    def is_selection(self) -> bool:
        """Whether every new class is one old class."""
        return all(len(members) == 1 for members in self.members)

    @cached_property
    def columns(self) -> np.ndarray:
        """(M,) int64: the old classes that are taken, new class by new class."""
        return np.array([old for members in self.members for old in members], np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """(C,) int64: where in :attr:`columns` each new class begins."""
        return np.cumsum([0, *(len(members) for members in self.members)])[:-1]

    @cached_property
    def new_class(self) -> np.ndarray:
        """(old C,) int64: the new class of every old one, -1 where it has none."""
        table = np.full(self.num_old, -1, np.int64)
        table[self.columns] = np.repeat(np.arange(len(self.names)), [len(members) for members in self.members])
        return table

    @property
    def digest(self) -> str:
        """Names this map: 16 hex digits of SHA-256 over names and members."""
        return hashlib.sha256(msgspec.json.encode([self.names, self.members])).hexdigest()[:16]

    def _checked(self, old_names: Sequence[str]) -> "ClassMap":
        if len(self.names) < 2:
            raise UsageError(f"There must be at least two classes, not {len(self.names)}.")
        if blank := [name for name in self.names if not name.strip()]:
            raise UsageError(f"A new class has no name, only '{blank[0]}'. Name it.")
        if len(np.unique(self.columns)) < len(self.columns):
            numbers, counts = np.unique(self.columns, return_counts=True)
            twice = int(numbers[counts > 1][0])
            raise UsageError(
                f"The class '{old_names[twice]}' is given twice. A class becomes one new class, or a part of one."
            )
        return self


def class_numbers(texts: Iterable[str], names: Sequence[str], place: str) -> list[int]:
    """The numbers of classes that are named, or given by number; a name that is a number wins.

    Args:
        texts: names or numbers.
        names: of all classes.
        place: where they were given, for a message.

    Raises:
        UsageError: there is no such class.
    """
    by_name = {name: number for number, name in enumerate(names)}
    numbers = []
    for text in texts:
        number = by_name.get(text)
        if number is None and text.isascii() and text.isdecimal() and int(text[:9]) < len(names) and len(text) < 9:
            number = int(text)
        if number is None:
            raise unknown(f"class in {place}", text, list(names)[:50])
        numbers.append(number)
    return numbers


def _csv_pairs(path: Path) -> list[tuple[str, str]]:
    from pyarrow import csv

    # as text: a class named "007" is not number 7
    texts = csv.ConvertOptions(column_types={"teacher": pa.string(), "student": pa.string()}, strings_can_be_null=False)
    return _pairs(csv.read_csv(path, convert_options=texts))


def _parquet_pairs(path: Path) -> list[tuple[str, str]]:
    from pyarrow import parquet

    return _pairs(parquet.read_table(path))


def _pairs(table: pa.Table) -> list[tuple[str, str]]:
    columns = [table[name].to_pylist() for name in ("teacher", "student")]
    if any(value is None for column in columns for value in column):
        raise ValueError("a value is missing")
    return [(str(old), str(new)) for old, new in zip(*columns, strict=True)]


def _toml_pairs(path: Path) -> list[tuple[str, str]]:
    classes: Mapping[str, Sequence[str | int]] = tomllib.loads(path.read_text(encoding="utf-8-sig"))["classes"]
    pairs = []
    for new, members in classes.items():
        if isinstance(members, str) or not members:
            raise ValueError(f"'{new}' needs a list of at least one class")
        pairs += [(str(old), new) for old in members]
    return pairs
