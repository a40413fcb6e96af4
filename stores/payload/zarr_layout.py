"""The payload as a Zarr v3 group: a folder for each array, a file for each chunk of it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arrays import ArrayInfo, ConstantInfo
from ..layout import array_file
from ..manifest import Buffer, Manifest
from .kept_rows import KeptRows, decoded_chunks_kept
from .layout import Rows
from .mapping import MappedRows
from .zarr_files import (
    chunk_bytes,
    constant_documents,
    constant_file,
    metadata_documents,
    read_compressed,
    read_constant,
)

_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class ZarrLayout:
    """Files of C-order bytes, mapped side by side; with ``+zstd``, decompressed one by one."""

    manifest: Manifest

    def array_file(self, array: str, view: int, block: int) -> str:
        """Zarr's default chunk key."""
        return array_file(array, view, block)

    def chunk_sizes(self, chunk: int) -> dict[str, int | None]:
        """One file for each array."""
        grid = self.manifest.grid
        view, block = grid.view(chunk), grid.block(chunk)
        return {
            array_file(array.name, view, block): None if self.decodes else grid.chunk_rows * array.row_bytes
            for array in self.manifest.arrays
        }

    def belongs(self, relative: str) -> bool:
        """Whether a chunk of the grid has a file of that name."""
        grid, numbers = self.manifest.grid, [int(number) for number in _NUMBERS.findall(relative)]
        if len(numbers) != 3 or numbers[0] >= grid.num_views or numbers[1] >= grid.chunks_per_view:
            return False
        return any(relative == array_file(array.name, *numbers[:2]) for array in self.manifest.arrays)

    def constant_file(self, constant: ConstantInfo) -> str:
        """Zarr's key of its only chunk."""
        return constant_file(constant)

    def constant_bytes(self, constant: ConstantInfo) -> int | None:
        """As many as its numbers have."""
        return constant.num_bytes

    def documents(self) -> dict[str, bytes]:
        """The ``zarr.json`` files."""
        return metadata_documents(self.manifest)

    def constant_documents(self, values: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """The only chunk of each."""
        return constant_documents(self.manifest, values)

    def chunk_documents(self, chunk: int, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Buffer]]:
        """The chunk of every array, padded to full size."""
        grid = self.manifest.grid
        for array in self.manifest.arrays:
            data = chunk_bytes(array, arrays[array.name], grid.chunk_rows, compressed=self.decodes)
            yield array_file(array.name, grid.view(chunk), grid.block(chunk)), data

    def rows(self, files: Sequence[Path], info: ArrayInfo) -> Rows:
        """Mapped, or decompressed chunk by chunk."""
        chunk_rows = self.manifest.chunk_rows
        if not self.decodes:
            return MappedRows(files, chunk_rows, info.width, info.dtype)
        max_kept = decoded_chunks_kept(chunk_rows, info)
        return KeptRows(files, chunk_rows, lambda path: read_compressed(path, info, chunk_rows), max_kept=max_kept)

    def read_block(self, path: Path, info: ArrayInfo, rows: int) -> np.ndarray:  # noqa: ARG002
        """All rows of the file, the padding too."""
        if self.decodes:
            return read_compressed(path, info, self.manifest.chunk_rows)
        shape = (self.manifest.chunk_rows, info.width)
        return np.asarray(np.memmap(path, np.dtype(info.dtype).newbyteorder("<"), "r", shape=shape))

    @property
    def decodes(self) -> bool:
        """Whether chunks are compressed."""
        return self.manifest.logit_codec.compressed

    def reader(self, root: Path, info: ArrayInfo, chunk: int) -> Callable[[int, int], np.ndarray]:
        """Reads the rows asked for; a compressed file is read whole, once."""
        grid = self.manifest.grid
        path = root / array_file(info.name, grid.view(chunk), grid.block(chunk))
        if self.decodes:
            rows = read_compressed(path, info, grid.chunk_rows)
            return lambda begin, end: rows[begin:end]
        dtype = np.dtype(info.dtype).newbyteorder("<")

        def part(begin: int, end: int) -> np.ndarray:
            values = np.fromfile(path, dtype, (end - begin) * info.width, offset=begin * info.row_bytes)
            if len(values) < (end - begin) * info.width:
                raise OSError(f"{path} was cut while it was read")
            return values.reshape(-1, info.width)

        return part

    def padded_rows(self, chunk: int) -> int:  # noqa: ARG002
        """All chunks of a Zarr array are of one size."""
        return self.manifest.chunk_rows

    def read_constant(self, root: Path, constant: ConstantInfo) -> np.ndarray:
        """From the only chunk."""
        return read_constant(root, constant)
