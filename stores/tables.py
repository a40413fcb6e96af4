"""The Parquet tables beside the payload: classes, and the samples of each row block."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import CorruptStoreError

CLASSES_SCHEMA = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
    ]
)

SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("teacher_top1", pa.int32(), nullable=False),
        pa.field("teacher_correct", pa.bool_(), nullable=False),
        pa.field("teacher_confidence", pa.float32(), nullable=False),
        pa.field("teacher_entropy", pa.float32(), nullable=False),
    ]
)


def classes_table(names: Sequence[str], counts: Sequence[int] | np.ndarray, groups: Sequence[str]) -> pa.Table:
    """classes.parquet: one row per class, in class order."""
    ids = range(len(names))
    columns = [ids, list(names), counts, list(groups)]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, CLASSES_SCHEMA, strict=True)]
    return pa.table(arrays, schema=CLASSES_SCHEMA)


def samples_table(
    rows: range,
    sample_ids: pa.Array,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    teacher_top1: np.ndarray,
    teacher_confidence: np.ndarray,
    teacher_entropy: np.ndarray,
) -> pa.Table:
    """The samples table of some rows, all (n,): what they are, and what the teacher says of them."""
    columns = {
        "row": np.arange(rows.start, rows.stop),
        "sample_id": sample_ids,
        "label": labels,
        "group": groups,
        "teacher_top1": teacher_top1,
        "teacher_correct": teacher_top1 == labels,
        "teacher_confidence": teacher_confidence,
        "teacher_entropy": teacher_entropy,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in SAMPLES_SCHEMA], schema=SAMPLES_SCHEMA)


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file by its path, which PyArrow would take for a URI if it is relative and has a colon."""
    return pq.ParquetFile(path.absolute())


def read_parquet(path: Path, schema: pa.Schema, num_rows: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of a store, checking its schema and its row count before its data.

    Raises:
        CorruptStoreError: missing, unreadable, of another schema or another number of rows.
    """
    try:
        with open_parquet(path) as file:
            if not file.schema_arrow.equals(schema, check_metadata=False):
                raise CorruptStoreError(f"{path} has other columns than the format says. Restore it.")
            if file.metadata.num_rows != num_rows:
                raise CorruptStoreError(
                    f"{path} has {file.metadata.num_rows} rows, the manifest says {num_rows}. Restore it."
                )
            return file.read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise CorruptStoreError(f"{path} cannot be read ({error}). Restore it.") from None
