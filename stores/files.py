"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder; and their checksums."""

import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import xxhash
from msgspec import Meta

from .errors import CorruptStoreError

_TEMPORARY = ".tmp"
_BLOCK = 1 << 22
_MADE_BY = re.compile(r"~(?P<host>[^~]*)@(?P<pid>\d{1,10})-[0-9a-f]{8}\.tmp$")
# a temporary file of another host: nobody writes one file for a day
_ABANDONED_SECONDS = 86_400.0

RelativePath = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")]
Checksum = Annotated[str, Meta(pattern=r"^xxh3-128:[0-9a-f]{32}$")]


def _no_step(step: str, path: Path) -> None:
    """What happens at a step of writing a file: nothing, outside the tests that kill a writer there."""


on_step: Callable[[str, Path], None] = _no_step


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file of a store must be: its path in the store, size in bytes and checksum."""

    path: RelativePath
    bytes: Annotated[int, Meta(ge=0, le=2**48)]
    checksum: Checksum

    def __post_init__(self) -> None:
        if ".." in self.path.split("/"):
            raise ValueError(f"the path '{self.path}' leaves the store's folder")

    def check_size(self, root: Path) -> None:
        """Raise CorruptStoreError unless the file exists under ``root`` with the recorded size."""
        path = root / self.path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise CorruptStoreError(f"{path} cannot be read ({error.strerror}). Restore it.") from None
        if size != self.bytes:
            raise CorruptStoreError(f"{path} has {size} bytes, its record says {self.bytes}. Restore it.")

    def is_met(self, root: Path) -> bool:
        """Whether the file is there with the recorded bytes."""
        path = root / self.path
        return path.is_file() and path.stat().st_size == self.bytes and file_checksum(path) == self.checksum


def record_of(relative: str, data: bytes | memoryview) -> FileRecord:
    """The record of a file with this content."""
    return FileRecord(path=relative, bytes=memoryview(data).nbytes, checksum=checksum(data))


def checksum(data: bytes | memoryview) -> str:
    """The checksum of ``data``: XXH3 with 128 bits, as ``xxh3-128:<hex>``."""
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}"


def file_checksum(path: Path) -> str:
    """The checksum of a file's bytes, read in blocks."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return f"xxh3-128:{state.hexdigest()}"


def write_file(root: Path, relative: str, data: bytes | memoryview) -> FileRecord:
    """Write ``data`` to ``root/relative`` as :func:`place_file` does; returns the file's record."""
    place_file(root, relative, data)
    return record_of(relative, data)


def place_file(root: Path, relative: str, data: bytes | memoryview) -> None:
    """Write ``data`` to ``root/relative`` so that a kill at any instant leaves the old file or the new one.

    Missing folders are made.
    """
    with replacing(root / relative) as temporary, temporary.open("wb") as file:
        file.write(data)


def create_file(root: Path, relative: str, data: bytes | memoryview) -> bool:
    """Write a file like :func:`write_file`, unless it is there; of two processes that begin at once one writes it.

    Returns:
        Whether it was this one.
    """
    try:
        with replacing(root / relative, place=_place_new) as temporary:
            temporary.write_bytes(data)
    except FileExistsError:
        return False
    return True


def _place_new(temporary: Path, path: Path) -> None:
    """Give a file its name, or raise FileExistsError."""
    try:
        path.hardlink_to(temporary)
        temporary.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the look before is the best there is
        if path.exists():
            raise FileExistsError(path) from None
        temporary.replace(path)


@contextmanager
def replacing(path: Path, place: Callable[[Path, Path], object] = Path.replace) -> Iterator[Path]:
    """A temporary path that becomes ``path``, durably, when the block ends; an exception removes it.

    Args:
        path: the file.
        place: gives the temporary file this name.
    """
    mark = f"{socket.gethostname()}@{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}~{mark}{_TEMPORARY}")
    try:
        _make_folder(path.parent)
        yield temporary
        on_step("written", path)
        sync(temporary)
        on_step("synced", path)
        place(temporary, path)
        on_step("renamed", path)
        sync(path.parent)
        on_step("durable", path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say of itself which file it was
        raise


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably: a file's name is no use if its folder's is lost."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in new:
        sync(place.parent)


def remove_temporaries(root: Path) -> None:
    """Remove what killed writers left under ``root``; files of a living writer are left alone."""
    for path in root.rglob(f".*{_TEMPORARY}"):
        if _is_abandoned(path):
            path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a writer left this file, or is writing it."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def _is_abandoned(temporary: Path) -> bool:
    made = _MADE_BY.search(temporary.name)
    if made is not None and made["host"] == socket.gethostname():
        return not is_alive(int(made["pid"]))
    try:
        return time.time() - temporary.stat().st_mtime > _ABANDONED_SECONDS
    except OSError:
        return False  # gone already


def is_alive(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync(path: Path) -> None:
    """Let a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
