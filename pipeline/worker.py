"""The one worker that makes chunks: read inputs, run the teacher, rank, round, write. Every engine drives this.

While the teacher is at one batch, a thread checks, ranks and rounds the one before.

Shapes: R rows of a chunk, B batch, C classes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..stores import StoreWriter
from ..stores.claims import ChunkClaims
from ..stores.confidence import confidence_and_entropy, warn_of_probabilities
from ..stores.errors import BadLogitsError
from ..stores.groups import group_names
from ..stores.manifest import InputDigest
from ..stores.ranking import rank_classes
from ..stores.tables import samples_table
from .features import LastLayer
from .inputs import Batch, InputDataset, load_batches
from .teachers import Teacher

DIGESTS_PER_CHUNK = 16
# batches that the teacher may be ahead of the thread that ranks them
_BATCHES_AHEAD = 2
_FLOAT32_MAX = torch.finfo(torch.float32).max


@dataclass
class _Chunk:
    """The buffers of one chunk while its batches arrive; row i of a buffer is row start + i of the store."""

    number: int
    rows: range
    arrays: dict[str, np.ndarray]
    top1: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    digests: dict[int, str]


class ChunkWorker:
    """Makes chunks of one store.

    Args:
        inputs: the data set, already in row order: position i is row i; with the augmentation of the store.
        teacher: the teacher.
        writer: the store.
        class_groups: (C,) group of every class.
        batch_size: B; the last batch of a chunk may be smaller, and no batch straddles two chunks, so the
            result depends neither on which chunks a worker makes nor on their order.
        num_workers: reading processes.
    """

    def __init__(
        self,
        inputs: InputDataset,
        teacher: Teacher,
        writer: StoreWriter,
        class_groups: np.ndarray,
        *,
        batch_size: int,
        num_workers: int,
    ) -> None:
        self._inputs, self._samples, self._teacher, self._writer = inputs, inputs.samples, teacher, writer
        self._class_groups, self._groups = class_groups, np.array(group_names(class_groups))
        self._batch_size, self._num_workers = batch_size, num_workers
        self._codec = writer.manifest.logit_codec if writer.manifest.logit_arrays else None
        has_features = self._codec is not None and self._codec.source == "features"
        self._is_warned = False
        self._layer = LastLayer(teacher.module, teacher.precision) if has_features else None
        if self._layer is not None:
            self._layer.watch()

    def run(self, chunks: Sequence[int], claims: ChunkClaims) -> Iterator[int]:
        """Make those of the chunks that can be claimed; gives the number of samples computed, after every batch.

        A chunk is on disk before the teacher begins the next one, so that a kill costs at most one chunk of teacher
        passes; loader workers read ahead meanwhile. One chunk is in memory.

        Raises:
            BadLogitsError: the teacher's logits are not finite, or too large for float16.
            BadSampleError, MismatchError, KdpipeError: from reading the data and running the teacher.
            OSError: from writing.
        """
        grid = self._writer.manifest.grid
        chunk: _Chunk | None = None
        computed = started = 0
        with ThreadPoolExecutor(1, "kdpipe-rank") as executor:
            pending: deque[Future[None]] = deque()
            for batch in self._batches(chunks, claims):
                block = int(batch.positions[0]) // grid.chunk_rows
                chunk = chunk or self._new_chunk(batch.view * grid.chunks_per_view + block)
                logits = self._teacher.logits(batch.inputs, self._samples.num_classes)
                features = None if self._layer is None else self._layer.take(logits)
                pending.append(executor.submit(self._add, chunk, started, logits, features, batch))
                started, computed = started + len(logits), computed + len(logits)
                whole = started == len(chunk.rows)
                while len(pending) > (0 if whole else _BATCHES_AHEAD):
                    pending.popleft().result()
                claims.renew()
                yield computed
                if whole:
                    self._write(chunk, claims)
                    chunk, started = None, 0

    def _batches(self, chunks: Sequence[int], claims: ChunkClaims) -> Iterator[Batch]:
        """The inputs of the chunks, view by view."""
        grid = self._writer.manifest.grid
        for view, of_view in groupby(chunks, grid.view):
            numbers = list(of_view)
            digested = {int(row) for chunk in numbers for row in digest_rows(grid.rows(chunk))}
            yield from load_batches(
                self._inputs.at_view(view, digested),
                self._plan(numbers, claims),
                num_workers=self._num_workers,
                pin_memory=self._teacher.device.type == "cuda",
            )

    def _plan(self, chunks: Sequence[int], claims: ChunkClaims) -> Iterator[list[int]]:
        """The positions of every batch; a chunk is claimed when its first batch is asked for."""
        for chunk in chunks:
            if not claims.take(chunk):
                continue
            if self._writer.is_whole(chunk):  # another process has made it since we looked
                claims.release(chunk)
                continue
            rows = self._writer.manifest.grid.rows(chunk)
            for start in range(0, len(rows), self._batch_size):
                yield list(rows[start : start + self._batch_size])

    def _new_chunk(self, number: int) -> _Chunk:
        rows = self._writer.manifest.grid.rows(number)
        num_rows = len(rows)
        return _Chunk(
            number=number,
            rows=rows,
            arrays={
                array.name: np.empty((num_rows, array.width), array.dtype) for array in self._writer.manifest.arrays
            },
            top1=np.empty(num_rows, np.int32),
            confidence=np.empty(num_rows, np.float32),
            entropy=np.empty(num_rows, np.float32),
            digests={},
        )

    def _add(self, chunk: _Chunk, start: int, logits: Tensor, features: Tensor | None, batch: Batch) -> None:
        """Check a batch's logits, and put what they say into its place in the chunk.

        In NumPy and in this thread alone: torch would wake threads that fight the teacher's for the same cores.
        """
        order = None if logits.device.type == "cpu" else _rank_on_device(logits)
        on_cpu = logits.cpu().numpy()
        values = on_cpu if features is None else features.cpu().numpy()
        self._check(on_cpu, values, batch.positions)
        if not self._is_warned:  # of the first batch
            self._is_warned = True
            warn_of_probabilities(on_cpu)
        place = slice(start, start + len(logits))
        chunk.confidence[place], chunk.entropy[place] = confidence_and_entropy(on_cpu)
        if self._codec is not None:
            for name, rows in self._codec.encode(values, self._class_groups).items():
                chunk.arrays[name][place] = rows
        for name, rows in batch.drawn.items():
            chunk.arrays[name][place] = rows
        # the top class is needed in any case; ranks cost the same sort
        order = rank_classes(on_cpu) if order is None else order
        if (ranks := chunk.arrays.get("ranks")) is not None:
            ranks[place] = order[:, : ranks.shape[1]]
        chunk.top1[place] = order[:, 0]
        chunk.digests.update(batch.digests)

    def _check(self, logits: np.ndarray, values: np.ndarray, positions: np.ndarray) -> None:
        """Refuse values that cannot be stored, and logits that say nothing, before any of their chunk is written."""
        limit = _FLOAT32_MAX if self._codec is None else self._codec.largest
        largest, smallest = logits.max(1), logits.min(1)
        is_storable = np.abs(values).max(1) <= limit  # NaN compares false
        bad = ~is_storable | ~(np.isfinite(largest) & np.isfinite(smallest)) | (largest == smallest)
        if not bad.any():
            return
        rows = np.flatnonzero(bad)
        names = ", ".join(self._samples.sample_ids[int(positions[row])].as_py() for row in rows[:5])
        names += f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        what, logits, values = "logits", logits[bad], values[bad]
        if not (np.isfinite(logits).all() and np.isfinite(values).all()):
            problem = f"are not finite (NaN or infinite) for {names}"
            cure = f"Check the weights and the samples{self._precision_hint}."
        elif (np.abs(values) > limit).any():
            what = "logits" if self._layer is None else "features"
            problem = f"pass {self._codec}'s largest number, {limit:g}, for {names}"
            cure = "Store them with --codec float32."
        else:
            problem = f"are all equal for {names}: they put the classes in no order"
            cure = "Check the weights, or leave these samples out."
        raise BadLogitsError(f"The teacher's {what} {problem}. Nothing of this chunk was written. {cure}")

    @property
    def _precision_hint(self) -> str:
        return "" if self._teacher.precision == "fp32" else ", or try --precision fp32"

    def _write(self, chunk: _Chunk, claims: ChunkClaims) -> None:
        first_view = self._writer.manifest.grid.view(chunk.number) == 0
        inputs = [InputDigest(row=row, digest=digest) for row, digest in sorted(chunk.digests.items())]
        self._writer.write_chunk(chunk.number, chunk.arrays, self._samples_table(chunk) if first_view else None, inputs)
        claims.release(chunk.number)

    def _samples_table(self, chunk: _Chunk) -> pa.Table:
        rows = slice(chunk.rows.start, chunk.rows.stop)
        labels = self._samples.labels[rows]
        return samples_table(
            chunk.rows,
            self._samples.sample_ids[rows],
            labels,
            self._groups[labels],
            teacher_top1=chunk.top1,
            teacher_confidence=chunk.confidence,
            teacher_entropy=chunk.entropy,
        )


def digest_rows(rows: range) -> np.ndarray:
    """The rows of a chunk whose input digest is kept: evenly spread, the first and the last among them."""
    return np.unique(np.linspace(rows.start, rows.stop - 1, DIGESTS_PER_CHUNK).round().astype(np.int64))


def _rank_on_device(logits: Tensor) -> np.ndarray:
    """(B, C) class ids, best first, equal logits by class id."""
    return torch.sort(logits, dim=1, descending=True, stable=True).indices.to(torch.int32).cpu().numpy()
