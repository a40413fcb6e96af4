"""The order in which rows are streamed: a documented pure function of (seed, epoch, row).

Every row gets a 64-bit key from the SplitMix64 finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014); sorting by key gives the order. It is the same on every machine and under every
NumPy, for any subset of the rows, and needs no state: to resume, an epoch and a batch number are enough.
"""

from collections.abc import Iterator

import numpy as np

from .errors import UsageError, unknown

# 16 chunks mix well enough to be near a true shuffle, and still read whole chunks (docs/format.md)
WINDOW_CHUNKS = 16
ORDERS = ("random", "chunks", "sequential")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def epoch_order(rows: np.ndarray, chunk_rows: int, *, order: str, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, as positions into ``rows``.

    ``random`` sorts all rows by key. ``chunks`` sorts chunks by key, and rows by key within each window of 16
    consecutive chunks, so that a cold disk reads whole chunks. ``sequential`` keeps the rows as they are.

    Args:
        rows: (M,) int64, the store rows in use.
        chunk_rows: R, rows of a chunk.
        order: "random", "chunks" or "sequential".
        seed: of the run.
        epoch: number of the epoch, from 0.

    Returns:
        (M,) int64, a permutation of range(M).

    Raises:
        UsageError: an unknown order.
    """
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    if order == "sequential":
        return np.arange(len(rows))
    row_keys = _keys(rows, seed, 2 * epoch)
    if order == "random":
        return np.argsort(row_keys, kind="stable")
    chunks, inverse = np.unique(rows // chunk_rows, return_inverse=True)
    ranks = np.empty(len(chunks), np.int64)
    ranks[np.argsort(_keys(chunks, seed, 2 * epoch + 1), kind="stable")] = np.arange(len(chunks))
    windows = ranks[inverse] // WINDOW_CHUNKS
    return np.lexsort((row_keys, windows))


class BatchSampler:
    """Batches of positions into a joined data set, in the order of the current epoch.

    Usable as the ``batch_sampler`` of a ``torch.utils.data.DataLoader``. Call :meth:`set_epoch` before each epoch.

    Args:
        rows: (M,) the store rows in use.
        chunk_rows: R, rows of a chunk.
        batch_size: samples of a batch.
        order: "random", "chunks" or "sequential", see :func:`epoch_order`.
        seed: of the order.
        drop_last: leave out the last batch where it would be smaller.

    Raises:
        UsageError: an unknown order, or a batch size below 1.
    """

    def __init__(
        self,
        rows: np.ndarray,
        chunk_rows: int,
        batch_size: int,
        *,
        order: str = "random",
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if order not in ORDERS:
            raise unknown("order", order, ORDERS)
        if batch_size < 1:
            raise UsageError(f"The batch size must be at least 1, not {batch_size}.")
        self._rows, self._chunk_rows = rows, chunk_rows
        self._seed, self._epoch = seed, 0
        self.order, self.batch_size, self.drop_last = order, batch_size, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self._rows), self.batch_size)
        return full + (0 if self.drop_last or not rest else 1)

    def __iter__(self) -> Iterator[list[int]]:
        positions = epoch_order(self._rows, self._chunk_rows, order=self.order, seed=self._seed, epoch=self._epoch)
        for batch in range(len(self)):
            yield positions[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()


def class_mixing(sampler: BatchSampler, labels: np.ndarray) -> float:
    """How many classes a batch holds, as a fraction of what a true shuffle would give: about 1 is well mixed.

    Args:
        sampler: its current epoch is measured.
        labels: (M,) the label of every position.
    """
    shares = np.bincount(labels) / len(labels)
    expected = float((1 - (1 - shares) ** sampler.batch_size).sum())
    found = [len(np.unique(labels[batch])) for batch in sampler if len(batch) == sampler.batch_size]
    return float(np.mean(found)) / expected if found else 1.0


def _keys(values: np.ndarray, seed: int, stream: int) -> np.ndarray:
    start = _mix(_mix(np.array([seed % 2**64], np.uint64)) + np.uint64(stream))
    return _mix((values.astype(np.uint64) + np.uint64(1)) * _GOLDEN + start)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
