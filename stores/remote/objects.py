"""The objects of a store wherever it lies, by their paths in the store: one small interface, two ways to have it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import CorruptStoreError
from ..files import create_file, is_temporary, write_file
from .location import Location


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object that is there: its size, and the server's tag for its content, if it gives one."""

    bytes: int
    e_tag: str | None = None


class Objects(Protocol):
    """What push, pull, the catalog and the cache need of a place."""

    @property
    def location(self) -> Location:
        """The place."""
        ...

    def read(self, path: str, *, limit: int) -> memoryview | None:
        """The bytes of an object, or None if there is none.

        Raises:
            CorruptStoreError: it is larger than ``limit`` bytes, or a link to a file elsewhere; it is then not read.
            KdpipeError: the place cannot be reached, or does not let us read.
        """
        ...

    def create(self, path: str, data: bytes | memoryview) -> Found | None:
        """Write an object that is not there yet; None, and nothing changed, if it is."""
        ...

    def replace(self, path: str, data: bytes | memoryview) -> Found:
        """Write an object, whether it is there or not."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def found(self) -> dict[str, Found]:
        """All objects below the place, by path."""
        ...

    def children(self) -> tuple[list[str], list[str]]:
        """The names of the folders and of the objects right below the place."""
        ...


def open_objects(location: Location) -> Objects:
    """The objects of a place.

    Raises:
        MissingExtraError: the place is remote, and obstore is not installed.
    """
    if location.is_local:
        return LocalObjects(location)
    from .client import RemoteObjects  # needs the extra

    return RemoteObjects(location)


class LocalObjects:
    """A folder of this machine; every write is durable, and whole or absent."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._root = location.folder
        self._resolved = self._root.resolve()  # the folder itself may lie behind a link

    def read(self, path: str, *, limit: int) -> memoryview | None:
        """See :class:`Objects`."""
        file = self._root / path
        if not file.exists():
            return None
        if not file.resolve().is_relative_to(self._resolved):
            raise CorruptStoreError(f"{file} leads out of its folder: refused unread. Put the file itself there.")
        if not file.is_file() or file.stat().st_size > limit:
            raise CorruptStoreError(f"{file} is not a file of at most {limit} bytes: refused unread.")
        return memoryview(file.read_bytes())

    def create(self, path: str, data: bytes | memoryview) -> Found | None:
        """See :class:`Objects`."""
        return Found(bytes=memoryview(data).nbytes) if create_file(self._root, path, data) else None

    def replace(self, path: str, data: bytes | memoryview) -> Found:
        """See :class:`Objects`."""
        return Found(bytes=write_file(self._root, path, data).bytes)

    def delete(self, path: str) -> None:
        """See :class:`Objects`."""
        (self._root / path).unlink(missing_ok=True)

    def found(self) -> dict[str, Found]:
        """See :class:`Objects`."""
        files = (path for path in self._root.rglob("*") if path.is_file() and not is_temporary(path))
        return {path.relative_to(self._root).as_posix(): Found(bytes=path.stat().st_size) for path in files}

    def children(self) -> tuple[list[str], list[str]]:
        """See :class:`Objects`."""
        entries: list[Path] = sorted(self._root.iterdir()) if self._root.is_dir() else []
        return [e.name for e in entries if e.is_dir()], [e.name for e in entries if e.is_file()]
