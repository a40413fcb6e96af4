"""What every engine drives: a worker, the store that it writes, and how the store is finished."""

from dataclasses import dataclass

import numpy as np

from ...stores import Manifest, StoreWriter
from ...stores.accuracy import stored_accuracy
from ..worker import ChunkWorker


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an extraction is.

    Attributes:
        found: samples that an earlier run had written, or another process.
        computed: samples the teacher has seen in this run.
        total: samples of the store, or of the range of chunks that is made.
    """

    found: int
    computed: int
    total: int


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """What an extraction gives.

    Attributes:
        manifest: of the store; its state is "writing" where only a range of the chunks was made, and others miss.
        computed: samples the teacher has seen; 0 where there was nothing to make.
        was_complete: whether the store was finished before.
    """

    manifest: Manifest
    computed: int
    was_complete: bool = False


@dataclass(frozen=True, kw_only=True)
class ExtractJob:
    """An extraction that is ready to make chunks.

    Attributes:
        worker: makes them.
        writer: the store.
        class_groups: (C,) group of every class.
    """

    worker: ChunkWorker
    writer: StoreWriter
    class_groups: np.ndarray

    def finish(self) -> Manifest:
        """Mark the store complete; all of its chunks must be whole."""
        writer = self.writer
        return writer.finish(stored_accuracy(writer.root, writer.manifest, self.class_groups))
