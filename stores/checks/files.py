"""Checks of single files of a store: the manifest, a receipt, a table, a Zarr document, and any recorded file.

Each says whether the file can be used, and notes a finding where it cannot.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from ..errors import CorruptStoreError, KdpipeError, RefusedError
from ..files import FileRecord, checksum, file_checksum
from ..layout import MANIFEST, RECEIPTS, receipt_file, samples_file
from ..manifest import Manifest, Receipt
from ..payload.layout import payload_layout
from ..tables import read_parquet
from .report import Collector

_MAX_DOCUMENT_BYTES = 1_000_000


class FileChecks:
    """The checks of the files of one store.

    Args:
        root: the store.
        manifest: of the store.
        found: takes the findings.
        deep: also compare checksums.
    """

    def __init__(self, root: Path, manifest: Manifest, found: Collector, *, deep: bool) -> None:
        self._root, self._manifest, self._found, self._deep = root, manifest, found, deep

    def is_whole(self, record: FileRecord, chunk: int | None) -> bool:
        """Whether a file is what its record says: there, of that size and, if deep, with that checksum."""
        path, found = self._root / record.path, self._found
        found.files_checked += 1
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                found.add(record.path, "missing", "it is not a file", chunk=chunk)
                return False
            if status.st_size != record.bytes:
                problem = f"it has {status.st_size:,} bytes, its record says {record.bytes:,}"
                found.add(record.path, "size", problem, chunk=chunk)
                return False
            if self._deep:
                found.bytes_read += status.st_size
                if file_checksum(path) != record.checksum:
                    found.add(record.path, "checksum", "its content is not what was written", chunk=chunk)
                    return False
        except OSError as error:
            problem = (
                "it is missing" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror})"
            )
            found.add(record.path, "missing", problem, chunk=chunk)
            return False
        return True

    def table(
        self, path: str, schema: pa.Schema, num_rows: int, chunk: int | None, columns: list[str] | None
    ) -> pa.Table | None:
        """A table, or with no columns only its footer, if it is as the format says."""
        try:
            return read_parquet(self._root / path, schema, num_rows, columns)
        except Exception as error:  # Arrow may raise anything over bytes whose checksum was not compared first
            self._found.add(path, "schema", _reason(error, self._root / path), chunk=chunk)
            return None

    def receipt(self, chunk: int) -> Receipt | None:
        """The receipt of a chunk if it is valid and about the files that this chunk has."""
        path, found = receipt_file(chunk), self._found
        if not os.path.lexists(self._root / path):
            found.chunks_missing += 1
            if self._manifest.state == "complete":
                found.add(path, "missing", "it is missing", chunk=chunk)
            return None
        try:
            _check_plain(self._root / path)
            receipt = Receipt.read(self._root, self._manifest.grid, chunk)
            data = (self._root / path).read_bytes()
            canonical = msgspec.json.encode(msgspec.json.decode(data)) + b"\n"
        except (KdpipeError, OSError, ValueError, RecursionError) as error:
            found.add(path, "receipt", _reason(error, self._root / path), chunk=chunk)
            return None
        found.bytes_read += len(data)
        found.files_checked += 1
        if data != canonical:  # the content is proven by the checksum in it; the bytes count for the manifest's
            found.add(path, "receipt", "its bytes are not as they were written", chunk=chunk)
        sizes = _sizes(self._manifest, chunk)
        if sorted(record.path for record in receipt.files) != sorted(sizes):
            found.add(path, "receipt", "it does not list the files that this chunk has", chunk=chunk)
            return None
        if any(sizes[record.path] not in (None, record.bytes) for record in receipt.files):
            found.add(path, "receipt", "it states sizes that this chunk's arrays cannot have", chunk=chunk)
            return None
        return receipt

    def document(self, path: str, expected: bytes) -> None:
        """Metadata of the payload means what ours would; it may be written in another way, by another zarr."""
        try:
            if (self._root / path).stat().st_size > _MAX_DOCUMENT_BYTES:
                raise ValueError("it is too large")
            document = msgspec.json.decode((self._root / path).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            self._found.add(path, "schema", f"it cannot be read ({error})")
            return
        if _without_empty(document) != _without_empty(msgspec.json.decode(expected)):
            self._found.add(path, "schema", "it does not describe the array that the manifest describes")


def read_manifest(root: Path, found: Collector) -> Manifest | None:
    """The manifest, or None with a finding.

    Raises:
        RefusedError: it is undamaged, but of a newer format version.
    """
    path = root / MANIFEST
    try:
        _check_plain(path)
        manifest = Manifest.read(root)
        data = path.read_bytes()
        written = msgspec.json.format(msgspec.json.encode(msgspec.json.decode(data)), indent=2) + b"\n"
    except (KdpipeError, OSError, ValueError, RecursionError) as error:
        if isinstance(error, RefusedError) and not isinstance(error, CorruptStoreError) and _is_sealed(path):
            raise  # of a newer version, not damaged
        check = "manifest" if os.path.lexists(path) else "missing"
        found.add(MANIFEST, check, _reason(error, path) if check == "manifest" else "it is missing")
        receipts = sum(1 for _ in _children(root / RECEIPTS))
        found.note(f"{receipts:,} receipts are there; without a manifest nothing else can be checked")
        return None
    found.bytes_read += len(data)
    found.files_checked += 1
    if data != written:
        problem = "its content is proven, but its bytes are not as kdpipe writes them"
        found.add(MANIFEST, "manifest", problem, severity="warning")
    return manifest


def _check_plain(path: Path) -> None:
    """Refuse a named pipe and the like, which would be waited for; what is missing is said by whoever reads it."""
    if path.exists() and not path.is_file():
        raise CorruptStoreError(f"{path} is not a file. Restore it.")


def _is_sealed(path: Path) -> bool:
    """Whether a manifest has the checksum that it states: then it is what its writer meant."""
    try:
        body: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return body.pop("checksum", None) == checksum(msgspec.json.encode(body, order="deterministic"))
    except (OSError, ValueError, RecursionError):
        return False


def _sizes(manifest: Manifest, chunk: int) -> dict[str, int | None]:
    """The files of a chunk, and the size that each must have, if the manifest decides it."""
    grid = manifest.grid
    sizes = payload_layout(manifest).chunk_sizes(chunk)
    return sizes | ({samples_file(grid.block(chunk)): None} if grid.view(chunk) == 0 else {})


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return


def _without_empty(document: object) -> object:
    """A JSON document without its empty parts: zarr's versions differ in whether they write these."""
    if isinstance(document, dict):
        kept = {key: _without_empty(value) for key, value in document.items()}
        return {key: value for key, value in kept.items() if value not in (None, {}, [])}
    return [_without_empty(value) for value in document] if isinstance(document, list) else document


def _reason(error: Exception, path: Path) -> str:
    """The error's text, for a finding that names the file anyway."""
    text = str(error).removeprefix(f"{path} ").removesuffix(" Restore it.").removesuffix(" Is this a kdpipe store?")
    return text.removesuffix(".") or type(error).__name__
