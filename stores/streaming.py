"""The order in which rows are streamed: a documented pure function of (seed, epoch, row).

Every row gets a 64-bit key from the SplitMix64 finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014); sorting by key gives the order. It is the same on every machine and under every
NumPy, for any subset of the rows, and needs no state: to resume, an epoch and a batch number are enough.

The keys can be undone, so an order is made by sorting the keys alone and reading the rows back from them, which is
several times faster than an argsort; and it is made in pieces, so that its memory does not grow with the rows.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from .errors import UsageError, unknown

# so many chunks mix well enough to be near a true shuffle, and still read whole chunks (docs/performance.md)
WINDOW_CHUNKS = 16
ORDERS = ("random", "chunks", "sequential")

# rows of a piece, about: 8 MB of keys
_PIECE_BITS = 20
# keys are made in blocks that stay in a processor's cache
_BLOCK_ROWS = 2**14

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# the inverses modulo 2^64
_GOLDEN_INVERSE, _FIRST_INVERSE, _SECOND_INVERSE = (
    np.uint64(pow(int(factor), -1, 2**64)) for factor in (_GOLDEN, _FIRST, _SECOND)
)

Rows = np.ndarray | range


def epoch_order(rows: Rows, chunk_rows: int, *, order: str, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, as positions into ``rows``.

    ``random`` sorts all rows by key. ``chunks`` sorts chunks by key, cuts them into windows of 16 or a few more, and
    sorts the rows of each window by key, so that a cold disk reads whole chunks. ``sequential`` keeps the rows as they
    are.

    Args:
        rows: (M,) int64, ascending and without repetition: the store rows in use; ``range(N)`` for all.
        chunk_rows: R, rows of a chunk.
        order: "random", "chunks" or "sequential".
        seed: of the run.
        epoch: number of the epoch, from 0.

    Returns:
        (M,) int64, a permutation of range(M).

    Raises:
        UsageError: an unknown order, or rows that are not ascending.
    """
    pieces = list(order_pieces(rows, chunk_rows, order=order, seed=seed, epoch=epoch))
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def order_pieces(rows: Rows, chunk_rows: int, *, order: str, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The order of :func:`epoch_order` piece by piece: about a million positions, or a window of chunks, at a time.

    Raises:
        UsageError: as :func:`epoch_order`.
    """
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    if not isinstance(rows, range) and len(rows) > 1 and not bool((rows[1:] > rows[:-1]).all()):
        raise UsageError("The rows to stream must be ascending, without repetition.")
    if order == "sequential":
        return _sequential(len(rows))
    return _random(rows, seed, epoch) if order == "random" else _by_chunks(rows, chunk_rows, seed, epoch)


class BatchSampler:
    """Batches of positions into a joined data set, in the order of the current epoch.

    Usable as the ``batch_sampler`` of a ``torch.utils.data.DataLoader``. Call :meth:`set_epoch` before each epoch.

    Args:
        rows: (M,) the store rows in use, ascending; ``range(N)`` for all.
        chunk_rows: R, rows of a chunk.
        batch_size: samples of a batch.
        order: "random", "chunks" or "sequential", see :func:`epoch_order`.
        seed: of the order.
        drop_last: leave out the last batch where it would be smaller.

    Raises:
        UsageError: an unknown order, rows that are not ascending, or a batch size below 1.
    """

    def __init__(
        self,
        rows: Rows,
        chunk_rows: int,
        batch_size: int,
        *,
        order: str = "random",
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        order_pieces(rows, chunk_rows, order=order, seed=seed, epoch=0)  # looks at the arguments
        if batch_size < 1:
            raise UsageError(f"The batch size must be at least 1, not {batch_size}.")
        self.rows, self._chunk_rows = rows, chunk_rows
        self._seed, self._epoch = seed, 0
        self.order, self.batch_size, self.drop_last = order, batch_size, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self._epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.batch_size)
        return full + (0 if self.drop_last or not rest else 1)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.arrays():
            yield batch.tolist()

    def arrays(self) -> Iterator[np.ndarray]:
        """The batches as int64 arrays."""
        pieces = order_pieces(self.rows, self._chunk_rows, order=self.order, seed=self._seed, epoch=self._epoch)
        for batch in _cut(pieces, self.batch_size):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def windows(self) -> Iterator[tuple[int, np.ndarray]]:
        """What the current epoch reads, in its order: a number of rows, and the chunks they lie in.

        ``random`` reads from all chunks at once: they are one window.
        """
        chunks = _chunks_of(self.rows, self._chunk_rows)
        if self.order == "random":
            yield len(self.rows), chunks
            return
        if self.order == "chunks":
            chunks = _chunks_by_key(chunks, self._seed, self._epoch)
        for window in _windows(chunks):
            yield sum(len(part) for part in _parts(self.rows, window, self._chunk_rows)), window


def class_mixing(sampler: BatchSampler, labels: np.ndarray) -> float:
    """How many classes a batch holds, as a fraction of what a true shuffle would give: about 1 is well mixed.

    Args:
        sampler: its current epoch is measured.
        labels: (M,) the label of every position.
    """
    shares = np.bincount(labels) / len(labels)
    expected = float((1 - (1 - shares) ** sampler.batch_size).sum())
    found = [len(np.unique(labels[batch])) for batch in sampler.arrays() if len(batch) == sampler.batch_size]
    return float(np.mean(found)) / expected if found else 1.0


def _sequential(num_rows: int) -> Iterator[np.ndarray]:
    for start in range(0, num_rows, 1 << _PIECE_BITS):
        yield np.arange(start, min(start + (1 << _PIECE_BITS), num_rows))


def _random(rows: Rows, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """All rows by key; where they are very many, in pieces of those whose keys begin with the same bits."""
    bits = max(0, (len(rows) - 1).bit_length() - _PIECE_BITS)
    if not bits:
        yield _places(rows, _rows_by(_keys(_slice(rows, 0, len(rows)), seed, 2 * epoch), seed, 2 * epoch))
        return
    shift = np.uint64(64 - bits)
    for piece in range(1 << bits):
        parts = []
        for start in range(0, len(rows), _BLOCK_ROWS):
            keys = _keys(_slice(rows, start, start + _BLOCK_ROWS), seed, 2 * epoch)
            parts.append(keys[keys >> shift == piece])
        yield _places(rows, _rows_by(np.concatenate(parts), seed, 2 * epoch))


def _by_chunks(rows: Rows, chunk_rows: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Windows of chunks in the order of the chunks' keys, the rows of a window by key."""
    for chunks in _windows(_chunks_by_key(_chunks_of(rows, chunk_rows), seed, epoch)):
        window = np.concatenate(_parts(rows, chunks, chunk_rows))
        yield _places(rows, _rows_by(_keys(window, seed, 2 * epoch), seed, 2 * epoch))


def _cut(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Pieces of any length as batches of ``size``; the last may be smaller."""
    rest = np.empty(0, np.int64)
    for piece in pieces:
        joined = np.concatenate([rest, piece]) if len(rest) else piece
        whole = len(joined) // size * size
        for start in range(0, whole, size):
            yield joined[start : start + size]
        rest = joined[whole:]
    if len(rest):
        yield rest


def _slice(rows: Rows, start: int, stop: int) -> np.ndarray:
    part = rows[start:stop]
    return np.arange(part.start, part.stop) if isinstance(part, range) else part.copy()


def _chunks_of(rows: Rows, chunk_rows: int) -> np.ndarray:
    """The chunks that hold any of the rows, ascending."""
    if not len(rows):
        return np.empty(0, np.int64)
    if isinstance(rows, range):
        return np.arange(rows[0] // chunk_rows, rows[-1] // chunk_rows + 1)
    return np.unique(rows // chunk_rows)


def _chunks_by_key(chunks: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    return chunks[np.argsort(_keys(chunks.copy(), seed, 2 * epoch + 1))]


def _windows(chunks: np.ndarray) -> list[np.ndarray]:
    """Cut n chunks into max(1, n // 16) windows whose lengths differ by one at most, the longer first."""
    return np.array_split(chunks, max(1, len(chunks) // WINDOW_CHUNKS)) if len(chunks) else []


def _parts(rows: Rows, chunks: np.ndarray, chunk_rows: int) -> list[np.ndarray]:
    """Those of the rows that lie in each of the chunks."""
    starts = chunks * chunk_rows
    if isinstance(rows, range):
        return [np.arange(max(s, rows.start), min(s + chunk_rows, rows.stop)) for s in starts.tolist()]
    firsts, lasts = np.searchsorted(rows, starts), np.searchsorted(rows, starts + chunk_rows)
    return [rows[first:last] for first, last in zip(firsts, lasts, strict=True)]


def _places(rows: Rows, chosen: np.ndarray) -> np.ndarray:
    """Where the chosen rows stand in ``rows``; ``chosen`` is used up."""
    if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1:  # without a gap
        chosen -= int(rows[0])
        return chosen
    return np.searchsorted(rows, chosen)


def _keys(values: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """The key of every row; ``values`` is used up."""
    keys = values.view(np.uint64)
    start = _start(seed, stream)
    for block in _blocks(keys):
        block += np.uint64(1)
        block *= _GOLDEN
        block += start
        _mix(block)
    return keys


def _rows_by(keys: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """The rows whose keys these are, in the order of their keys; ``keys`` is used up."""
    keys.sort()
    start = _start(seed, stream)
    for block in _blocks(keys):
        _unmix(block)
        block -= start
        block *= _GOLDEN_INVERSE
        block -= np.uint64(1)
    return keys.view(np.int64)


def _start(seed: int, stream: int) -> np.uint64:
    start = _mix(np.array([seed % 2**64], np.uint64))
    start += np.uint64(stream)
    return _mix(start)[0]


def _blocks(values: np.ndarray) -> list[np.ndarray]:
    """Parts that stay in a processor's cache while they are worked on, in place."""
    return [values[start : start + _BLOCK_ROWS] for start in range(0, len(values), _BLOCK_ROWS)]


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser, in place."""
    x ^= x >> np.uint64(30)
    x *= _FIRST
    x ^= x >> np.uint64(27)
    x *= _SECOND
    x ^= x >> np.uint64(31)
    return x


def _unmix(x: np.ndarray) -> None:
    """Undo :func:`_mix`: a shift is undone by shifting again, as often as the width holds it."""
    x ^= (x >> np.uint64(31)) ^ (x >> np.uint64(62))
    x *= _SECOND_INVERSE
    x ^= (x >> np.uint64(27)) ^ (x >> np.uint64(54))
    x *= _FIRST_INVERSE
    x ^= (x >> np.uint64(30)) ^ (x >> np.uint64(60))
