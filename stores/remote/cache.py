"""The local cache of chunks: one folder with a bound, shared by all runs of a user.

Every remote store has a folder of its own in it, named by its content, with the files of the store at their own paths.
Chunk files are evicted, the least recently used first. That is safe at any time: a file that is mapped stays readable
after it is unlinked, and a reader that finds one gone fetches it again.
"""

import errno
import fcntl
import os
import re
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ..errors import KdpipeError, UsageError
from ..files import FileRecord, is_temporary, place_file
from ..layout import PAYLOAD, PAYLOAD_TABLES

DEFAULT_BYTES = 20_000_000_000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", re.IGNORECASE)
# evict a little more than is needed, so that the folder is not looked through for every chunk
_EVICT_TO = 0.95
_LOOK_AGAIN = 1 / 16


class ChunkCache:
    """A folder that holds chunk files of remote stores, of a bounded size altogether.

    Concurrent runs share it: files appear whole, and two runs that fetch the same chunk write the same file. Each run
    measures the folder now and then, so that for a short time they may pass the bound by a sixteenth each.

    Args:
        folder: by default ``kdpipe/chunks`` in the user's cache folder.
        max_bytes: the bound.

    Raises:
        UsageError: a bound that is not above zero.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        self.folder = folder or default_folder()
        self.max_bytes = DEFAULT_BYTES if max_bytes is None else _checked(max_bytes)
        self._room = self._coming = 0  # bytes that may be written before the next look; that are being written
        self._lock = threading.Lock()

    def add(self, root: Path, record: FileRecord, data: memoryview) -> None:
        """Write a chunk file of the store at ``root``, after making room for it.

        Raises:
            KdpipeError: the disk is full.
        """
        with self._lock:
            if self._room < record.bytes:
                self._make_room(record.bytes)
            self._room -= record.bytes
            self._coming += record.bytes
        try:
            place_file(root, record.path, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise KdpipeError(
                f"The cache {self.folder} cannot be written to ({error.strerror}). Free space, choose another folder "
                "with --cache, or less with --cache-size; then run the same command again."
            ) from None
        finally:
            with self._lock:
                self._coming -= record.bytes

    def _make_room(self, needed: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two runs that evict at once would evict twice as much
            files = sorted(_chunk_files(self.folder))
            held = self._coming + sum(size for _, size, _ in files)
            if held + needed > self.max_bytes:
                target = _EVICT_TO * self.max_bytes - needed
                for _, size, path in files:
                    if held <= target:
                        break
                    path.unlink(missing_ok=True)
                    held -= size
        self._room = max(needed, min(self.max_bytes - held, int(_LOOK_AGAIN * self.max_bytes)))


def default_folder() -> Path:
    """``kdpipe/chunks`` in ``XDG_CACHE_HOME``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdpipe" / "chunks"


def parse_size(text: str) -> int:
    """Bytes of a cache from a text such as ``20GB`` or ``500 MB``; the units are powers of 1000.

    Raises:
        UsageError: it is not of that form, or less than a byte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is no size. Write a number and a unit, such as 20GB or 500MB.")
    return _checked(int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " ")))


def _checked(max_bytes: int) -> int:
    if max_bytes <= 0:
        raise UsageError(f"The size of the cache must be above 0, not {max_bytes}.")
    return max_bytes


def _chunk_files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each chunk file was last used, its size, and where it is."""
    for store in folder.glob("*.kd"):
        for place, _, names in chain(os.walk(store / PAYLOAD), os.walk(store / PAYLOAD_TABLES)):
            for name in names:
                path = Path(place, name)
                if name.endswith(".json") or is_temporary(path):
                    continue
                try:
                    status = path.stat()
                except OSError:  # evicted by another run
                    continue
                yield status.st_mtime, status.st_size, path
