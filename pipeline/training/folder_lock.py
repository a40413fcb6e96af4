"""A lock on the folder of a run or a sweep, so that two processes do not do the same work in it.

It is advisory, and a POSIX record lock: the kernel lets go of it when its process ends, however that ends; processes
that it forks do not hold it; and NFS tells other machines of it.
"""

import contextlib
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

import msgspec

from ...stores.claims import Claim
from ...stores.errors import BusyError

logger = logging.getLogger(__name__)

LOCK = ".lock"
# a process that was killed may take a moment to end; that a machine is lost takes longer to be noticed
_PATIENCE_HERE, _PATIENCE_ELSEWHERE = 10.0, 120.0
_LOOK_SECONDS = 0.1


class FolderLock(contextlib.AbstractContextManager["FolderLock"]):
    """A folder that is this process's; made by :meth:`take`. As a context it is released at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @classmethod
    def take(cls, root: Path, what: str) -> "FolderLock":
        """Lock a folder, which is made if need be; what this process itself has locked is no obstacle.

        Args:
            root: the folder.
            what: how to call what it holds.

        Raises:
            BusyError: another process has locked it and does not end soon; the message names it.
        """
        root.mkdir(parents=True, exist_ok=True)
        lock, begun, said = cls(root / LOCK), time.monotonic(), False
        while not lock._attempt():
            holder = lock._holder()
            is_here = holder is not None and holder.host == socket.gethostname()
            if time.monotonic() - begun > (_PATIENCE_HERE if is_here else _PATIENCE_ELSEWHERE):
                raise BusyError(
                    f"The {what} {root} is being made by {holder or 'another process'}. "
                    "Wait for it, or end it and run this again: it goes on from there. Or choose another --out."
                )
            if not said:
                logger.warning("%s is locked by %s; waiting for it to end", root, holder or "another process")
                said = True
            time.sleep(_LOOK_SECONDS)
        return lock

    def release(self) -> None:
        """Let go of the folder; nothing stays behind."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __exit__(self, *_: object) -> None:
        self.release()

    def _attempt(self) -> bool:
        """Lock if no other process has; also True where the file system knows no locks."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            return True
        if not self._is_at_path(descriptor):  # its last owner has just removed it
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, msgspec.json.encode(Claim.mine()))
        self._descriptor = descriptor
        return True

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _holder(self) -> Claim | None:
        """Who has the lock; None where that is not written down yet."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Claim)
        except (OSError, msgspec.DecodeError):
            return None
