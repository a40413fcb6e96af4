"""``parquet:GLOB,image=COLUMN,label=COLUMN``: images in Parquet files, read one row group at a time.

Shapes: N samples.
"""

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from ...stores.errors import BadSampleError, KdpipeError, MismatchError, UsageError
from ...stores.tables import open_parquet
from ..specs import Spec
from .columns import ColumnOptions, RawInput, cell_reader, labels_of, sample_ids_of
from .registry import data_source
from .samples import Samples

# of row groups that one process keeps; the last one read is kept whatever its size
_CACHE_BYTES = 2**28


class ParquetCells:
    """Raw inputs in a column of Parquet files.

    No file stays open, so that forked reading processes do not share one. Each process keeps some row groups: reading
    in order costs one pass, reading at random may cost a row group for every sample.

    Args:
        groups: file, number and rows of every row group, in order.
        column: of the images.
        read: from a cell and its sample's name to the input.
        names: (N,) the sample ids.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Path, int, int]],
        column: str,
        read: Callable[[Any, str], RawInput],
        names: pa.Array,
    ) -> None:
        self._groups, self._column, self._read, self._names = groups, column, read, names
        self._ends = np.cumsum([rows for *_, rows in groups])
        self._cache: dict[int, pa.ChunkedArray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}  # a process fills its own

    def __getitem__(self, position: int) -> RawInput:
        group = int(np.searchsorted(self._ends, position, side="right"))
        row = position - (int(self._ends[group - 1]) if group else 0)
        name = self._names[position].as_py()
        return self._read(self._cells(group, name)[row], name)

    def _cells(self, group: int, name: str) -> pa.ChunkedArray:
        if group not in self._cache:
            path, number, _ = self._groups[group]
            try:
                with open_parquet(path) as file:
                    # Arrow's threads do not survive a fork
                    table = file.read_row_group(number, [self._column], use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise BadSampleError(
                    f"The sample {name} cannot be read: row group {number} of {path} is damaged ({error}). "
                    "Fetch it again."
                ) from None
            self._cache[group] = table.column(self._column)
            while len(self._cache) > 1 and sum(cells.nbytes for cells in self._cache.values()) > _CACHE_BYTES:
                del self._cache[next(iter(self._cache))]  # the oldest
        return self._cache[group]


@data_source("parquet")
def parquet(spec: Spec) -> Samples:
    """Parquet files with a column of images and one of labels; ids are ``FILE/ROW`` unless a column has them."""
    options = spec.into(ColumnOptions)
    files = [_open(path, options) for path in _paths(spec.location)]
    schema = files[0].schema
    for file in files[1:]:
        _check_alike(file, files[0], options)
    read = cell_reader(schema.field(options.image).type, options.shape, options.image)
    table = pa.concat_tables([file.described for file in files])
    where = f"of {spec.location}"
    names = options.class_names(_huggingface_names(schema, options.label))
    labels, class_names = labels_of(table.column(options.label), names, f"The column '{options.label}' {where}")
    if options.id is None:
        root = _fixed_part(spec.location)
        named = [(file.path.relative_to(root).as_posix(), len(file.described)) for file in files]
        ids = pa.array([f"{name}/{row}" for name, rows in named for row in range(rows)], pa.string())
    else:
        ids = sample_ids_of(table.column(options.id), f"The column '{options.id}' {where}")
    groups = [(file.path, number, rows) for file in files for number, rows in enumerate(file.group_sizes)]
    return Samples(
        spec=str(spec),
        items=ParquetCells(groups, options.image, read, ids),
        indices=np.arange(len(labels)),
        sample_ids=ids,
        labels=labels,
        class_names=class_names,
    )


@dataclass(frozen=True)
class _File:
    """A Parquet file: its schema, its label and id columns, and the rows of its row groups."""

    path: Path
    schema: pa.Schema
    described: pa.Table
    group_sizes: list[int]


def _paths(pattern: str) -> list[Path]:
    """The files that a pattern matches, sorted."""
    expanded = str(Path(pattern).expanduser())
    # unlike Path.glob, it takes patterns from the root
    paths = [Path(path) for path in sorted(glob.glob(expanded, recursive=True)) if Path(path).is_file()]  # noqa: PTH207
    if not paths:
        folder = pattern if Path(expanded).is_dir() else "DIR"
        raise UsageError(f"No file matches '{pattern}'. Write parquet:{folder}/*.parquet, or the name of a file.")
    return paths


def _fixed_part(pattern: str) -> Path:
    """The folder that all files a pattern matches lie in, whichever there are: ids must not depend on that."""
    path = Path(pattern).expanduser()
    while glob.has_magic(str(path)):
        path = path.parent
    return path.parent if path.is_file() else path


def _open(path: Path, options: ColumnOptions) -> _File:
    """Read all of a file but its images.

    Raises:
        UsageError: it lacks a column.
        KdpipeError: it is damaged.
    """
    try:
        with open_parquet(path) as file:
            options.check(file.schema_arrow, str(path))
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            return _File(path, file.schema_arrow, file.read(options.described), sizes)
    except (pa.ArrowException, OSError) as error:
        raise KdpipeError(f"{path} cannot be read as Parquet ({str(error).rstrip('.')}). Fetch it again.") from None


def _check_alike(file: _File, first: _File, options: ColumnOptions) -> None:
    for name in (options.image, *options.described):
        found, expected = file.schema.field(name).type, first.schema.field(name).type
        if found != expected:
            raise MismatchError(
                f"The column '{name}' of {file.path} holds {found}, that of {first.path} {expected}. Give files of one "
                "kind."
            )


@dataclass(frozen=True)
class _ClassLabel:
    names: list[str]


@dataclass(frozen=True)
class _Info:
    features: dict[str, Any]


@dataclass(frozen=True)
class _HuggingFace:
    """What Hugging Face's ``datasets`` writes into a file's metadata."""

    info: _Info


def _huggingface_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The class names of a column that Hugging Face's ``datasets`` wrote as class numbers."""
    try:
        told = msgspec.json.decode((schema.metadata or {}).get(b"huggingface", b"{}"), type=_HuggingFace)
        return msgspec.convert(told.info.features.get(column), _ClassLabel).names
    except msgspec.MsgspecError:  # somebody else's metadata, or no class label
        return None
