"""The folder of a training run: resolved configuration, metrics, checkpoints, summary, student."""

import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import torch

from ...stores.differences import told_differences
from ...stores.errors import KdpipeError, MismatchError, RefusedError, missing_extra
from ...stores.files import is_temporary, remove_temporaries, replacing, write_file
from ...stores.tables import to_parquet
from ..models.weights import first_line
from .folder_lock import LOCK, FolderLock

logger = logging.getLogger(__name__)

CONFIG, METRICS, SUMMARY, STUDENT = "config.json", "metrics.jsonl", "summary.json", "student.safetensors"
CLASSES = "classes.parquet"
_KEPT_CHECKPOINTS = 2
# what a run may be continued with differently: where things lie and how they are watched, not what is computed
FREE = frozenset(
    {
        "out", "store", "cache", "cache_size", "workers", "checkpoint_seconds", "tensorboard", "verify", "resume",
        "placement",
    }
)  # fmt: skip


class RunFolder:
    """A run's folder; made by :meth:`open`, and this process's until :meth:`close`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: FolderLock | None = None

    @classmethod
    def open(cls, root: Path, config: dict[str, Any]) -> "RunFolder":
        """Create the folder, or go on with a run of the same configuration.

        Raises:
            MismatchError: a run with another configuration is there.
            RefusedError: something that is not a run is there, or a finished one whose student is gone.
            BusyError: another process trains it.
        """
        folder = cls(root)
        if all((root / name).exists() for name in (CONFIG, SUMMARY)) and not folder.begun:
            raise RefusedError(
                f"The run in {root} was finished, and its {STUDENT} is gone. Put the file back, or remove the folder "
                "to train again."
            )
        if folder.summary is not None:  # it is only read, also where nothing can be written
            _agree(root, config, begun=True, free=FREE, what="run")
        else:
            folder._lock = claim_folder(root, config, begun=lambda: folder.begun, free=FREE, what="run")
        return folder

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()

    @property
    def begun(self) -> bool:
        """Whether there is anything to lose: a checkpoint or a result."""
        return self.summary is not None or bool(self._checkpoints())

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; None while it is not finished, or where its student is gone."""
        path = self.root / SUMMARY
        return _read_json(path) if path.exists() and self.student.exists() else None

    @property
    def student(self) -> Path:
        """Where the trained weights go."""
        return self.root / STUDENT

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the summary: from here on the run is finished."""
        write_file(self.root, SUMMARY, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
        for path in self._checkpoints():
            path.unlink()

    def write_classes(self, table: pa.Table) -> None:
        """Write classes.parquet: the last validation, one row a class."""
        write_file(self.root, CLASSES, to_parquet(table))

    def write_metrics(self, records: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl, one record an epoch."""
        write_file(self.root, METRICS, b"".join(msgspec.json.encode(record) + b"\n" for record in records))

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, and keep the last two."""
        path = self.root / "checkpoints" / f"{step:010d}.pt"
        try:
            with replacing(path) as temporary:
                torch.save(state, temporary)
        except RuntimeError as error:  # torch's zip writer does not say that the disk is full
            raise KdpipeError(
                f"The checkpoint {path} cannot be written ({first_line(error)}). Is the disk full? "
                "What is finished is kept: mend this and run the command again."
            ) from error
        for path in self._checkpoints()[:-_KEPT_CHECKPOINTS]:
            path.unlink()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that can be read, or None."""
        for path in reversed(self._checkpoints()):
            try:
                with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
                    if (damaged := archive.testzip()) is not None:
                        raise OSError(f"the checksum of {damaged} is wrong")
                return torch.load(path, map_location="cpu", weights_only=True)
            except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
                logger.warning("%s cannot be read (%s); going back to the one before.", path, error)
        return None

    def _checkpoints(self) -> list[Path]:
        return sorted((self.root / "checkpoints").glob("*.pt"))


def claim_folder(
    root: Path, config: dict[str, Any], *, begun: Callable[[], bool], free: frozenset[str], what: str
) -> FolderLock:
    """Create a folder with its ``config.json``, or make sure that the one there is of the same configuration.

    Args:
        root: the folder.
        config: what is asked for.
        begun: whether the folder holds anything to lose.
        free: settings that may differ.
        what: how to call what the folder holds.

    Returns:
        The lock that makes it this process's.

    Raises:
        MismatchError: it was begun with another configuration.
        RefusedError: it holds something else.
        BusyError: another process is at work in it.
    """
    _check_ours(root, what)
    lock = FolderLock.take(root, what)
    try:
        _agree(root, config, begun=begun(), free=free, what=what)
    except BaseException:
        lock.release()
        raise
    return lock


def _check_ours(root: Path, what: str) -> None:
    """Raise RefusedError where a folder holds something, but nothing that says what it is."""
    if not root.exists() or (root / CONFIG).exists():
        return
    if not root.is_dir() or not all(is_temporary(path) or path.name == LOCK for path in root.iterdir()):
        raise RefusedError(f"{root} exists and is not a kdpipe {what}. Choose another --out.")


def _agree(root: Path, config: dict[str, Any], *, begun: bool, free: frozenset[str], what: str) -> None:
    """Write ``config.json``, or compare with the one that is there; see :func:`claim_folder`."""
    body = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
    path = root / CONFIG
    if path.exists():
        found = _read_json(path)
        wanted = msgspec.json.decode(body)
        changed = sorted(name for name in {*found, *wanted} - free if found.get(name) != wanted.get(name))
        if found.keys() != wanted.keys() and not begun:  # many tools call a file config.json
            other = "sweep" if what == "run" else "run"
            raise RefusedError(
                f"{root} is no {what}: its {CONFIG} is that of a {other}, or of another tool. Choose another --out."
            )
        if changed and not begun:
            write_file(root, CONFIG, body)
        elif changed:
            there, here = ({name: values.get(name) for name in changed} for values in (found, wanted))
            raise MismatchError(
                f"{root} is a {what} with another configuration: {told_differences(there, here)}. "
                "Choose another --out, or give the configuration it was begun with."
            )
        remove_temporaries(root)
    else:
        _check_ours(root, what)
        write_file(root, CONFIG, body)


class EventWriter:
    """Metrics as TensorBoard events, in the folder ``tensorboard`` of a run.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, root: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboard", "--tensorboard") from None
        self._writer = SummaryWriter(str(root / "tensorboard"))

    def write(self, record: dict[str, Any]) -> None:
        """Write the numbers of an epoch's record."""
        for name, value in record.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise KdpipeError(f"{path} cannot be read ({error}). Remove the folder and run again.") from None
