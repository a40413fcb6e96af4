"""The payload as Parquet: a file for each chunk, a column for each array, beside the columns ``row`` and ``view``.

With ``parquet`` a value is a row's bytes (fixed-size binary, little endian), with ``parquet-lists`` a list of numbers.

Shapes: n rows of a chunk.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..arrays import ArrayInfo, ConstantInfo
from ..errors import CorruptStoreError, UsageError
from ..layout import PAYLOAD_TABLES, PAYLOAD_TABLES_DOCUMENT
from ..manifest import Buffer, Manifest
from .kept_rows import KeptRows, decoded_chunks_kept
from .layout import Rows
from .parquet_columns import Columns, map_column, read_column

_NUMBERS = re.compile(r"\d+")
# files kept mapped: enough for a window of any order, well below what the system lets a process have
_KEPT_MAPPED = 1000
# Arrow writes more rows than this in several pages, which do not lie side by side
_ROWS_IN_A_PAGE = 20_000


@dataclass(frozen=True)
class ParquetLayout:
    """Uncompressed bytes are mapped where they lie in the file; all else is decoded, chunk by chunk."""

    manifest: Manifest

    def array_file(self, array: str, view: int, block: int) -> str:  # noqa: ARG002
        """The chunk's file: all arrays are in it."""
        return f"{PAYLOAD_TABLES}/{view * self.manifest.grid.chunks_per_view + block:05d}.parquet"

    def chunk_sizes(self, chunk: int) -> dict[str, int | None]:
        """One file, whose size depends on the library that wrote it."""
        return {self._chunk_file(chunk): None}

    def belongs(self, relative: str) -> bool:
        """Whether a chunk of the grid has a file of that name."""
        number = int("".join(_NUMBERS.findall(relative)) or -1)
        return 0 <= number < self.manifest.grid.num_chunks and relative == self._chunk_file(number)

    def constant_file(self, constant: ConstantInfo) -> str:
        """A table of its own, in a folder that a pattern for the chunks does not meet."""
        return f"{PAYLOAD_TABLES}/_constants/{constant.name}.parquet"

    def constant_bytes(self, constant: ConstantInfo) -> int | None:  # noqa: ARG002
        """Not known: as of the chunks."""
        return None

    def documents(self) -> dict[str, bytes]:
        """One document: which store this is, and what the columns hold."""
        arrays = {array.name: {"dtype": array.dtype, "width": array.width} for array in self.manifest.arrays}
        body = {"store_id": self.manifest.store_id, "payload_format": self.manifest.payload_format, "arrays": arrays}
        return {PAYLOAD_TABLES_DOCUMENT: msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"}

    def constant_documents(self, values: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """A table of one column, a row for each of its first axis."""
        documents = {}
        for constant in self.manifest.constants:
            array = values.get(constant.name)
            if array is None or array.shape != constant.shape:
                shape = None if array is None else array.shape
                raise UsageError(f"The store needs '{constant.name}' of shape {constant.shape}, not {shape}.")
            rows = array.reshape(constant.shape[0], -1)
            documents[self.constant_file(constant)] = bytes(self._columns(constant).encode({constant.name: rows}))
        return documents

    def chunk_documents(self, chunk: int, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Buffer]]:
        """The chunk's table."""
        yield self._chunk_file(chunk), self._columns().encode(arrays, self._keys(chunk))

    def rows(self, files: Sequence[Path], info: ArrayInfo) -> Rows:
        """Mapped one by one, or decoded."""
        grid = self.manifest.grid
        rows_of = dict.fromkeys(files, grid.chunk_rows) | {files[-1]: len(grid.rows(grid.chunks_per_view - 1))}
        max_kept = decoded_chunks_kept(grid.chunk_rows, info) if self.decodes else _KEPT_MAPPED

        def read(path: Path) -> np.ndarray:
            return self.read_block(path, info, rows_of[path])

        return KeptRows(files, grid.chunk_rows, read, max_kept=max_kept, mapped=not self.decodes)

    def read_block(self, path: Path, info: ArrayInfo, rows: int) -> np.ndarray:
        """The rows of the file, (rows, width)."""
        columns = self._columns()
        mapped = None if self.decodes else map_column(path, columns, info.name, rows)
        return read_column(path, columns, info.name, rows) if mapped is None else mapped

    @property
    def decodes(self) -> bool:
        """Whether columns are lists, or compressed, or their chunks so large that Arrow writes them in pieces."""
        lists = self.manifest.payload_format == "parquet-lists"
        return lists or self.manifest.logit_codec.compressed or self.manifest.chunk_rows > _ROWS_IN_A_PAGE

    def reader(self, root: Path, info: ArrayInfo, chunk: int) -> Callable[[int, int], np.ndarray]:
        """Reads the column by Arrow, whole; what is mapped elsewhere must be the same."""
        path, columns, rows = root / self._chunk_file(chunk), self._columns(), len(self.manifest.grid.rows(chunk))
        values = read_column(path, columns, info.name, rows, self._keys(chunk))
        mapped = None if self.decodes else map_column(path, columns, info.name, rows)
        if mapped is not None and mapped.tobytes() != values.tobytes():
            raise CorruptStoreError(f"{path} holds other bytes of '{info.name}' than Arrow reads. Restore this chunk.")
        return lambda begin, end: values[begin:end]

    def padded_rows(self, chunk: int) -> int:
        """A table has no row too many."""
        return len(self.manifest.grid.rows(chunk))

    def read_constant(self, root: Path, constant: ConstantInfo) -> np.ndarray:
        """From its table."""
        columns = self._columns(constant)
        rows = read_column(root / self.constant_file(constant), columns, constant.name, constant.shape[0])
        return rows.reshape(constant.shape)

    def _chunk_file(self, chunk: int) -> str:
        return f"{PAYLOAD_TABLES}/{chunk:05d}.parquet"

    def _keys(self, chunk: int) -> dict[str, np.ndarray]:
        """What tells a row of the chunk from all others."""
        grid = self.manifest.grid
        rows = np.arange(grid.rows(chunk).start, grid.rows(chunk).stop)
        return {"row": rows, "view": np.full(len(rows), grid.view(chunk), np.int32)}

    def _columns(self, constant: ConstantInfo | None = None) -> Columns:
        """Those of the chunks, or of the table of a constant."""
        arrays = {array.name: (np.dtype(array.dtype), array.width) for array in self.manifest.arrays}
        if constant is not None:
            arrays = {constant.name: (np.dtype(np.float32), constant.num_bytes // (4 * constant.shape[0]))}
        return Columns(
            arrays=arrays,
            lists=self.manifest.payload_format == "parquet-lists",
            compressed=self.manifest.logit_codec.compressed,
            has_keys=constant is None,
        )
