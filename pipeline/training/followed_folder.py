"""The folder of a run that several processes train: rank 0 reads and writes it, the others follow."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from ..ranks import Ranks
from .parallel import from_first
from .run_folder import RunFolder


def open_folder(root: Path, config: dict[str, Any], ranks: Ranks) -> RunFolder:
    """Create a run's folder, or go on with what is in it, as rank 0 sees it.

    Raises:
        MismatchError, RefusedError: as :meth:`RunFolder.open`, by all processes.
    """
    if ranks.alone:
        return RunFolder.open(root, config)
    opened: list[RunFolder] = []

    def look() -> tuple[bool, dict[str, Any] | None, dict[str, Any] | None]:
        folder = RunFolder.open(root, config)
        opened.append(folder)
        return folder.begun, folder.summary, None if folder.summary else folder.load_checkpoint()

    found = from_first(ranks, look)
    return opened[0] if ranks.first else FollowedFolder(root, *found)


class FollowedFolder(RunFolder):
    """What was in a run's folder at the beginning; nothing is written to it.

    Args:
        root: the folder, which this process need not see.
        begun: whether there was anything to lose.
        summary: of a finished run.
        checkpoint: the last one.
    """

    def __init__(
        self, root: Path, begun: bool, summary: dict[str, Any] | None, checkpoint: dict[str, Any] | None
    ) -> None:
        super().__init__(root)
        self._begun, self._summary, self._checkpoint = begun, summary, checkpoint

    @property
    def begun(self) -> bool:
        """See :class:`RunFolder`."""
        return self._begun

    @property
    def summary(self) -> dict[str, Any] | None:
        """See :class:`RunFolder`."""
        return self._summary

    def load_checkpoint(self) -> dict[str, Any] | None:
        """See :class:`RunFolder`."""
        return self._checkpoint

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Rank 0 writes it."""

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Rank 0 writes it."""

    def write_classes(self, table: pa.Table) -> None:
        """Rank 0 writes it."""

    def write_metrics(self, records: list[dict[str, Any]]) -> None:
        """Rank 0 writes it."""
