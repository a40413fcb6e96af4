"""Chunks made by this process, and by others like it on the same store: torchrun's ranks, the tasks of an array job.

They share the work by claims in the store's folder and need no process group: a rank that is alone, late or dead keeps
no other from going on, and what is made is the same whoever makes it.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ...stores import StoreWriter, UsageError
from ...stores.claims import ChunkClaims
from ...stores.layout import MANIFEST, RECEIPTS
from ..ranks import Ranks
from .chunk_range import chunks_of
from .job import ExtractJob, ExtractResult, Progress

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5
# how often it is counted what other processes have made, and how much of the time that may take
_LOOK_SECONDS, _LOOK_SHARE = 10.0, 0.01
# for rank 0 to begin the store, counted from when another rank is ready to
_BEGIN_SECONDS = 300.0


def make_store(job: ExtractJob, on_progress: Callable[[Progress], None], *, chunks: str | None) -> ExtractResult:
    """Make the chunks that are missing, and finish the store if no other is.

    Args:
        job: what to drive.
        on_progress: called after every batch.
        chunks: make only this range, see :mod:`.chunk_range`.
    """
    writer, ranks = job.writer, Ranks.from_environment()
    if writer.complete:
        return ExtractResult(manifest=writer.manifest, computed=0, was_complete=True)
    every = range(writer.manifest.grid.num_chunks)
    wanted = chunks_of(len(every), chunks)
    computed = _make_missing_chunks(job, wanted, ranks.share(wanted), on_progress)
    others = (chunk for chunk in every if chunk not in wanted)
    is_last = ranks.first and all(map(writer.is_whole, others))
    return ExtractResult(manifest=job.finish() if is_last else writer.manifest, computed=computed)


def await_first_rank(root: Path) -> None:
    """Under torchrun, wait until rank 0 has begun the store, so that it is begun once.

    Raises:
        UsageError: this rank does not see what rank 0 writes.
    """
    ranks = Ranks.from_environment()
    deadline = time.monotonic() + _BEGIN_SECONDS
    while not ranks.first and not (root / MANIFEST).exists():
        if time.monotonic() > deadline:
            raise UsageError(
                f"Rank {ranks.rank} on {socket.gethostname()} does not see {root / MANIFEST}, which rank 0 writes. "
                "--out must be a folder that all machines share."
            )
        time.sleep(_WAIT_SECONDS)


def _make_missing_chunks(job: ExtractJob, wanted: range, own: range, on_progress: Callable[[Progress], None]) -> int:
    """Make every chunk that is missing and that no other process is making; wait for those that are.

    Args:
        job: what to drive.
        wanted: the chunks that must be whole in the end.
        own: those among them to begin with, so that ranks do not meet; then what others have left.
        on_progress: called after every batch.

    Returns:
        The number of samples computed here.
    """
    writer, claims = job.writer, ChunkClaims(job.writer.root)
    progress = _Watch(writer, wanted, on_progress)
    others = [chunk for chunk in wanted if chunk not in own]  # looked at later: each look at a receipt is a read
    missing, said = _missing(writer, own), False
    try:
        if missing:
            progress.follow(job.worker.run(missing, claims))
            missing = _missing(writer, missing)
        missing += _missing(writer, others)
        while missing:
            made = progress.follow(job.worker.run(missing, claims))
            missing = _missing(writer, missing)
            if not made and missing:
                if not said and (claimed := claims.others(missing)):
                    logger.warning("waiting for chunks that another process is making: %s", claimed[0])
                    said = True
                time.sleep(_WAIT_SECONDS)
    finally:
        claims.release_all()
    return progress.computed


class _Watch:
    """Counts what is computed here, and now and then what others have made."""

    def __init__(self, writer: StoreWriter, wanted: range, on_progress: Callable[[Progress], None]) -> None:
        self._grid, self._receipts = writer.manifest.grid, writer.root / RECEIPTS
        self._wanted, self._on_progress = wanted, on_progress
        self._total, self.computed, self._found = self._num_rows(wanted), 0, 0
        self._look()

    def follow(self, counts: Iterable[int]) -> int:
        """Tell the progress while a worker counts upwards; returns how far it came."""
        before, count = self.computed, 0
        for count in counts:
            self.computed = before + count
            if time.monotonic() > self._look_again:
                self._look()
            self._on_progress(Progress(found=self._found, computed=self.computed, total=self._total))
        return count

    def _look(self) -> None:
        """Count the samples of chunks that have a receipt, from the names alone, without those computed here."""
        begun = time.monotonic()
        names = [path.stem for path in self._receipts.iterdir()] if self._receipts.exists() else []
        received = [int(name) for name in names if name.isdecimal() and int(name) in self._wanted]
        # of those computed here, all but the chunk in hand have a receipt
        self._found = max(self._found, self._num_rows(received) - self.computed)
        now = time.monotonic()
        self._look_again = now + max(_LOOK_SECONDS, (now - begun) / _LOOK_SHARE)

    def _num_rows(self, chunks: Iterable[int]) -> int:
        return sum(len(self._grid.rows(chunk)) for chunk in chunks)


def _missing(writer: StoreWriter, chunks: Iterable[int]) -> list[int]:
    return [chunk for chunk in chunks if not writer.is_whole(chunk)]
