"""Reading ahead: while batches are used, a thread brings the chunks that come next into memory."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import numpy as np

BatchT = TypeVar("BatchT")


def read_ahead(
    batches: Iterable[BatchT],
    batch_size: int,
    windows: Iterator[tuple[int, np.ndarray]],
    bring: Callable[[int], object],
    *,
    skipped: int = 0,
) -> Generator[BatchT, None, None]:
    """Give the batches, while a thread brings what they will need, at most one window ahead of them.

    Args:
        batches: what is given.
        batch_size: rows of a batch.
        windows: what the batches read, in their order: rows, and the chunks they lie in.
        bring: brings a chunk into memory; what it raises ends the reading ahead and is raised here.
        skipped: rows of the windows that were read before.
    """
    thread = _Thread(windows, bring, skipped)
    thread.start()
    try:
        for batch in batches:
            thread.check()
            yield batch
            thread.advance(batch_size)
    finally:
        thread.stop()


class _Thread(threading.Thread):
    """Brings window after window, waiting until the reader has begun the one before."""

    def __init__(self, windows: Iterator[tuple[int, np.ndarray]], bring: Callable[[int], object], skipped: int) -> None:
        super().__init__(name="kdpipe-read-ahead", daemon=True)
        self._windows, self._bring = windows, bring
        self._read = self._skipped = skipped
        self._awaited: int | None = None
        self._reached = threading.Event()
        self._stopped = False
        self._error: Exception | None = None

    def run(self) -> None:
        before = begin = 0  # rows before the last window, and before this one
        try:
            for num_rows, chunks in self._windows:
                self._wait_for(before)
                before, begin = begin, begin + num_rows
                if begin <= self._skipped:
                    continue
                for chunk in chunks.tolist():
                    if self._stopped:
                        return
                    self._bring(chunk)
        except Exception as error:  # to be raised where the batches are used
            self._error = error

    def advance(self, num_rows: int) -> None:
        self._read += num_rows
        if self._awaited is not None and self._read >= self._awaited:
            self._reached.set()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stopped = True
        self._reached.set()
        self.join()

    def _wait_for(self, num_rows: int) -> None:
        """Sleep until the reader is so far. It is woken once, not by every batch: that would slow the reader."""
        self._reached.clear()
        self._awaited = num_rows
        if self._read < num_rows and not self._stopped:
            self._reached.wait()
        self._awaited = None
