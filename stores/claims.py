"""Claims: which process is making which chunk, so that several can work on one store without doing work twice.

A claim only saves work. What keeps a store right is that chunks are whole files with one possible content: should two
processes make the same chunk all the same, the last rename wins and changes nothing.
"""

import getpass
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .files import is_alive
from .layout import LOCKS

# a claim is renewed every 30 s while its process works; after 10 minutes without that it is taken over
_RENEWED_SECONDS = 30.0
_STALE_SECONDS = 600.0
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who is making a chunk: user, host, process, when that process started (clock ticks since boot), since when."""

    owner: str
    host: str
    pid: int
    process_started: int
    since: str

    @classmethod
    def mine(cls) -> "Claim":
        """A claim of this process."""
        return cls(
            owner=_user(),
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=_process_started(os.getpid()) or 0,
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )

    def __str__(self) -> str:
        return f"{self.owner} on {self.host} (process {self.pid}, since {self.since})"


class ChunkClaims:
    """The claims of this process on the chunks of one store.

    Args:
        root: the folder of the store.
        take_over: also take the chunks that others have claimed: a coordinator has given them to this process.
    """

    def __init__(self, root: Path, *, take_over: bool = False) -> None:
        self._folder = root / LOCKS
        self._take_over = take_over
        self._held: set[int] = set()
        self._renewed = time.monotonic()

    def take(self, chunk: int) -> bool:
        """Claim a chunk; False while another process holds it. A claim whose process is gone is taken over."""
        path = self._path(chunk)
        for _ in range(_ATTEMPTS):
            self._folder.mkdir(exist_ok=True)
            try:
                with path.open("xb") as file:
                    file.write(msgspec.json.encode(Claim.mine()))
            except FileNotFoundError:
                continue  # another process removed the empty folder just now
            except FileExistsError:
                if not self._take_over and not _is_stale(path):
                    return False
                path.unlink(missing_ok=True)
            else:
                self._held.add(chunk)
                return True
        return False

    def renew(self) -> None:
        """Say that this process is still at work; call it often, it does something every 30 seconds."""
        if time.monotonic() - self._renewed < _RENEWED_SECONDS:
            return
        self._renewed = time.monotonic()
        for chunk in self._held:
            if self._path(chunk).exists():
                os.utime(self._path(chunk))

    def release(self, chunk: int) -> None:
        """Give a chunk up: it is written, or left to others."""
        if chunk in self._held:
            self._held.discard(chunk)
            self._path(chunk).unlink(missing_ok=True)

    def release_all(self) -> None:
        """Give all chunks up, and remove what dead processes left; the folder too, unless others have claims in it."""
        for chunk in tuple(self._held):
            self.release(chunk)
        for path in self._folder.glob("*.json"):
            if _is_stale(path):
                path.unlink(missing_ok=True)
        try:
            self._folder.rmdir()
        except OSError:
            return  # not there, or in use by others

    def others(self, chunks: Iterable[int]) -> list[Claim]:
        """The living claims of other processes on some chunks."""
        paths = (self._path(chunk) for chunk in chunks if chunk not in self._held)
        return [claim for path in paths if (claim := _read(path)) is not None and not _is_stale(path)]

    def _path(self, chunk: int) -> Path:
        return self._folder / f"{chunk:05d}.json"


def living_claims(root: Path) -> list[Claim]:
    """All claims on a store whose processes are still there."""
    paths = sorted((root / LOCKS).glob("*.json"))
    return [claim for path in paths if not _is_stale(path) and (claim := _read(path)) is not None]


def _read(path: Path) -> Claim | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Claim)
    except (OSError, msgspec.DecodeError):
        return None


def _is_stale(path: Path) -> bool:
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return True
    if age > _STALE_SECONDS:
        return True
    claim = _read(path)
    if claim is None:
        return age > _RENEWED_SECONDS  # its writer may be between creating and filling it
    return claim.host == socket.gethostname() and _process_started(claim.pid) != claim.process_started


def _process_started(pid: int) -> int | None:
    """When a process of this host started, or None if there is none: a number used again is another process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19])
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() or not is_alive(pid) else 0
    except OSError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
