"""Arrays as columns of a Parquet file: written whole, read by Arrow, or mapped where they lie in the file.

Shapes: n rows of a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CorruptStoreError, UsageError
from ..tables import open_parquet

# what tells the rows of a chunk from all others
_KEYS = (pa.field("row", pa.int64(), nullable=False), pa.field("view", pa.int32(), nullable=False))
# a page holds its size as a 32-bit number
_MAX_BYTES = 2**31 - 2**20
_LEVEL = 7
# the header of the page, which is before a column's bytes, is some 20 bytes long
_MAX_HEADER_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a file hold.

    Attributes:
        arrays: element type, and elements of a row, by name.
        lists: whether a value is a list of numbers; else it is a row's bytes, little endian.
        compressed: whether pages are compressed (zstd).
        has_keys: whether the columns ``row`` and ``view`` are before the arrays.
    """

    arrays: Mapping[str, tuple[np.dtype, int]]
    lists: bool
    compressed: bool
    has_keys: bool

    @property
    def schema(self) -> pa.Schema:
        """Of the file."""
        fields = [pa.field(name, self._type(name), nullable=False) for name in self.arrays]
        return pa.schema([*(_KEYS if self.has_keys else ()), *fields])

    def encode(self, arrays: Mapping[str, np.ndarray], keys: Mapping[str, np.ndarray] | None = None) -> memoryview:
        """The bytes of a file; the same values give the same bytes.

        Args:
            arrays: (n, width) by name, castable to the element types.
            keys: (n,) of ``row`` and ``view``, where the file has these.

        Raises:
            UsageError: a column is too large.
        """
        columns = [pa.array(values) for values in (keys or {}).values()]
        columns += [self._column(name, arrays[name]) for name in self.arrays]
        table = pa.table(columns, schema=self.schema)
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            row_group_size=max(1, len(table)),
            compression="zstd" if self.compressed else "none",
            compression_level=_LEVEL if self.compressed else None,
            use_dictionary=False,
            write_statistics=False,
            data_page_size=2**31 - 1,  # one page, so that the rows lie side by side
            write_batch_size=max(1, len(table)),
            data_page_version="1.0",
        )
        return memoryview(sink.getvalue())

    def row_bytes(self, name: str) -> int:
        """Bytes of a row of an array."""
        dtype, width = self.arrays[name]
        return dtype.itemsize * width

    def _type(self, name: str) -> pa.DataType:
        dtype, width = self.arrays[name]
        if not self.lists:
            return pa.binary(self.row_bytes(name))
        return pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False), width)

    def _column(self, name: str, values: np.ndarray) -> pa.Array:
        dtype = self.arrays[name][0]
        rows = np.ascontiguousarray(values, dtype=dtype.newbyteorder("<"))
        if rows.nbytes > _MAX_BYTES:
            raise UsageError(f"A chunk of {rows.nbytes:,} bytes is too large for Parquet. Give a smaller --chunk-rows.")
        kind = self._type(name)
        if self.lists:
            return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).astype(dtype, copy=False)), type=kind)
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])


def read_column(
    path: Path, columns: Columns, name: str, rows: int, keys: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """An array from a file, by Arrow: (n, width).

    Args:
        path: the file.
        columns: what it must hold.
        name: of the array.
        rows: how many it must have.
        keys: the values that its ``row`` and ``view`` must have, if they are to be looked at.

    Raises:
        CorruptStoreError: it cannot be read, or holds something else.
    """
    dtype, width = columns.arrays[name]
    try:
        with open_parquet(path) as file:
            _check(path, file, columns, name, rows)
            table = file.read(columns=[*(keys or {}), name])
        column = pa.concat_arrays(table[name].chunks) if table[name].num_chunks != 1 else table[name].chunk(0)
        if len(column) != rows or column.null_count:
            raise CorruptStoreError(f"{path} lacks rows of '{name}'. Restore this chunk.")
        for key, values in (keys or {}).items():
            if not np.array_equal(table[key].to_numpy(), values):
                raise CorruptStoreError(f"{path} is about other rows: its '{key}' is another. Restore this chunk.")
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise CorruptStoreError(f"{path} cannot be read ({error}). Restore this chunk.") from None
    if columns.lists:
        return column.flatten().to_numpy(zero_copy_only=True).reshape(rows, width)
    data = np.frombuffer(column.buffers()[1], np.uint8, rows * columns.row_bytes(name), column.offset)
    return data.view(dtype.newbyteorder("<")).reshape(rows, width)


def map_column(path: Path, columns: Columns, name: str, rows: int) -> np.ndarray | None:
    """An array of row bytes as it lies in a file, mapped: (n, width); None where it lies in several pieces.

    Raises:
        CorruptStoreError: as of :func:`read_column`.
    """
    dtype, width = columns.arrays[name]
    size = rows * columns.row_bytes(name)
    try:
        with open_parquet(path) as file:
            _check(path, file, columns, name, rows)
            place = columns.schema.get_field_index(name)
            found = file.metadata.row_group(0).column(place)
        start, length = found.data_page_offset, found.total_compressed_size - size
        with path.open("rb") as file:
            file.seek(start)
            header = file.read(min(max(length, 0), _MAX_HEADER_BYTES))
        if len(header) != length or not header.startswith(_page_header(size, rows)):
            return None
        if path.stat().st_size < start + length + size:
            raise CorruptStoreError(f"{path} is cut. Restore this chunk.")
        return np.asarray(np.memmap(path, dtype.newbyteorder("<"), "r", start + length, (rows, width)))
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        raise CorruptStoreError(f"{path} cannot be read ({error}). Restore this chunk.") from None


def _check(path: Path, file: pq.ParquetFile, columns: Columns, name: str, rows: int) -> None:
    """Compare a file's footer with what it must be, before anything is read: it may claim any size."""
    if not file.schema_arrow.equals(columns.schema, check_metadata=False):
        raise CorruptStoreError(f"{path} has other columns than the format says. Restore this chunk.")
    if file.metadata.num_rows != rows or file.metadata.num_row_groups != 1:
        raise CorruptStoreError(f"{path} has {file.metadata.num_rows} rows instead of {rows}. Restore this chunk.")
    width, found = columns.arrays[name][1], file.metadata.row_group(0)
    # 32 bits hold a small number in a list, and levels say which list it belongs to
    most = 2 * rows * max(columns.row_bytes(name), 4 * width) + 2**16
    if any(
        found.column(i).path_in_schema.split(".")[0] == name and found.column(i).total_uncompressed_size > most
        for i in range(found.num_columns)
    ):
        raise CorruptStoreError(f"{path} states more bytes than '{name}' can have. Restore this chunk.")


def _page_header(size: int, rows: int) -> bytes:
    """How the header of a page of plain values begins (Thrift's compact protocol): one page, and it holds all rows.

    Fields: type 0, uncompressed size, compressed size, then of a data page: number of values, encoding 0.
    """
    sizes = b"\x15" + _varint(2 * size)
    return b"\x15\x00" + 2 * sizes + b"\x2c\x15" + _varint(2 * rows) + b"\x15\x00"


def _varint(number: int) -> bytes:
    data = b""
    while number >= 128:
        data += bytes([number % 128 + 128])
        number //= 128
    return data + bytes([number])
