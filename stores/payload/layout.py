"""How a payload lies in files: one small interface, with an implementation for each payload format."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from ..arrays import ArrayInfo, ConstantInfo
from ..layout import CLASSES, PAYLOAD, PAYLOAD_TABLES, PAYLOAD_TABLES_DOCUMENT
from ..manifest import Buffer, Manifest


class Rows(Protocol):
    """The rows of one view of one stored array: (N, width)."""

    @property
    def mappings(self) -> int:
        """How many files are kept mapped, at most."""
        ...

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy ``rows`` (int64, any order, within range) into ``out`` (len(rows), width)."""
        ...

    def bring(self, block: int) -> None:
        """Begin to bring a chunk nearer."""
        ...


class PayloadLayout(Protocol):
    """Where the payload of one store lies, how it is written and how it is read."""

    # --- names

    def array_file(self, array: str, view: int, block: int) -> str:
        """The file that holds the rows of one block of one view of an array; arrays may share it."""
        ...

    def chunk_sizes(self, chunk: int) -> dict[str, int | None]:
        """The payload files of a chunk; their sizes where the manifest decides them."""
        ...

    def belongs(self, relative: str) -> bool:
        """Whether this is the path of a chunk file."""
        ...

    def constant_file(self, constant: ConstantInfo) -> str:
        """The file of an array that is stored once."""
        ...

    def constant_bytes(self, constant: ConstantInfo) -> int | None:
        """The size of that file, where the manifest decides it."""
        ...

    # --- writing

    def documents(self) -> dict[str, bytes]:
        """The JSON documents that describe the payload to others, by path; the store id is in one of them."""
        ...

    def constant_documents(self, values: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """The files of the arrays that are stored once, by path.

        Raises:
            UsageError: one is not given, or has another shape.
        """
        ...

    def chunk_documents(self, chunk: int, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Buffer]]:
        """The payload files of a chunk, one after the other: path and content, the same for the same values."""
        ...

    # --- reading

    def rows(self, files: Sequence[Path], info: ArrayInfo) -> Rows:
        """The rows of one view of an array from its chunk files.

        Raises:
            CorruptStoreError: one is missing or, as far as sizes are known, has another; more when it is read.
        """
        ...

    def read_block(self, path: Path, info: ArrayInfo, rows: int) -> np.ndarray:
        """The rows (rows or more, width) of an array from a chunk file, mapped where that can be.

        Raises:
            CorruptStoreError: it cannot be read, or is no such chunk.
        """
        ...

    @property
    def decodes(self) -> bool:
        """Whether :meth:`read_block` takes memory, not only address space."""
        ...

    def reader(self, root: Path, info: ArrayInfo, chunk: int) -> Callable[[int, int], np.ndarray]:
        """A function that gives the rows of a chunk from one to another, without trusting the file: for verify.

        Raises:
            OSError, CorruptStoreError: the file cannot be read, or is no such chunk; also of the function.
        """
        ...

    def padded_rows(self, chunk: int) -> int:
        """How many rows a chunk file has; those after the chunk's own hold the fill value."""
        ...

    def read_constant(self, root: Path, constant: ConstantInfo) -> np.ndarray:
        """An array that is stored once, float32.

        Raises:
            CorruptStoreError: it cannot be read, or has another shape.
        """
        ...


def payload_layout(manifest: Manifest) -> PayloadLayout:
    """The layout of a store's payload."""
    if manifest.payload_format == "zarr":
        from .zarr_layout import ZarrLayout

        return ZarrLayout(manifest)
    from .parquet_layout import ParquetLayout

    return ParquetLayout(manifest)


def standing_files(manifest: Manifest) -> list[str]:
    """What a store has beside its chunks: class table, metadata of the payload, and arrays that are stored once."""
    layout = payload_layout(manifest)
    return [CLASSES, *layout.documents(), *map(layout.constant_file, manifest.constants)]


def payload_store_id(root: Path) -> str | None:
    """The store id that the payload's own metadata carries; None where there is no such payload."""
    return _found(root / PAYLOAD / "zarr.json", "attributes", "kdpipe", "store_id") or _found(
        root / PAYLOAD_TABLES_DOCUMENT, "store_id"
    )


def remove_payload(root: Path) -> None:
    """Remove whatever payload a folder has."""
    for folder in (PAYLOAD, PAYLOAD_TABLES):
        shutil.rmtree(root / folder, ignore_errors=True)


def _found(path: Path, *keys: str) -> str | None:
    """A text deep in a JSON document; None where there is none."""
    try:
        value = msgspec.json.decode(path.read_bytes())
        for key in keys:
            value = value[key]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
