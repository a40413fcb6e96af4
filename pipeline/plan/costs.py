"""The time of an extraction, put together from what was measured on the pilot and on the disk.

Shapes: n rows, R rows of a chunk, C classes.
"""

import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...stores import Manifest
from ...stores.codecs import Codec, Float16, Float32, LogitCodec
from ...stores.codecs.codec import Arrays
from ...stores.confidence import confidence_and_entropy
from ...stores.files import write_file
from ...stores.payload.layout import payload_layout
from ...stores.ranking import rank_classes
from ...stores.tables import to_parquet
from .pilot import Pilot
from .records import StoreBytes, StudentTimes
from .sizes import chunk_of_pilot, rows_for_a_chunk

# the disk is measured with so much at most, or for so long
_DISK_BYTES = 2**28
_DISK_SECONDS = 2.0
_SMALL_BYTES, _SMALL_FILES, _LARGE_BYTES = 1000, 15, 2**22
_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Disk:
    """How fast a disk takes files that are flushed before they get their names.

    Attributes:
        file_seconds: of a small file.
        bytes_per_second: of a large one, beyond that.
        free_bytes: of the disk.
    """

    file_seconds: float
    bytes_per_second: float
    free_bytes: int

    def seconds(self, files: float, num_bytes: float) -> float:
        """To write so many files of so many bytes in all."""
        return files * self.file_seconds + num_bytes / self.bytes_per_second


@dataclass(frozen=True, kw_only=True)
class CodecTimes:
    """What a codec takes on the processor.

    Attributes:
        encode: seconds a row.
        decode: seconds a row, when a student trains from the store; 0 where nothing is decoded.
        files: seconds to make the files of a chunk of R rows: to compress it, or to write it as Parquet.
    """

    encode: float
    decode: float
    files: float


def measure_disk(folder: Path, file_bytes: int) -> Disk:
    """Write files of a size as a store does, some seconds at most, and remove them.

    Args:
        folder: on the disk in question.
        file_bytes: of a chunk file; at least 4 MB are written, so that a speed can be told from a delay.
    """
    data = np.random.default_rng(0).bytes(max(file_bytes, _LARGE_BYTES))

    def write(content: bytes) -> None:
        write_file(folder, "disk", content)
        (folder / "disk").unlink()

    small = statistics.median(_seconds(lambda: write(data[:_SMALL_BYTES])) for _ in range(_SMALL_FILES))
    sizes, started = [], time.perf_counter()
    while not sizes or (sum(sizes) < _DISK_BYTES and time.perf_counter() - started < _DISK_SECONDS):
        write(data)
        sizes.append(len(data))
    large = (time.perf_counter() - started) / len(sizes)
    rate = (len(data) - _SMALL_BYTES) / max(large - small, 1e-9)
    return Disk(file_seconds=small, bytes_per_second=rate, free_bytes=shutil.disk_usage(folder).free)


def measure_codec(
    codec: Codec, manifest: Manifest, values: np.ndarray, arrays: Arrays, class_groups: np.ndarray, constants: Arrays
) -> CodecTimes:
    """Time a codec on the pilot.

    Args:
        codec: which.
        manifest: of a store of that codec.
        values: (n, C) float32 logits or (n, F) features: what is encoded.
        arrays: all arrays of the store, for the rows of the pilot.
        class_groups: (C,) group of every class.
        constants: the arrays that the codec stores once.
    """
    encode = _best(lambda: codec.encode(values, class_groups)) / len(values)
    decode = 0.0
    if isinstance(codec, LogitCodec) and not isinstance(codec, Float16 | Float32):
        stored = {array.name: arrays[array.name] for array in codec.arrays(manifest.num_classes)}
        decode = _best(lambda: codec.decode({**stored, **constants})) / len(values)
    rows = rows_for_a_chunk(manifest, arrays)
    files = _best(lambda: chunk_of_pilot(manifest, arrays, rows)) * manifest.chunk_rows / rows
    return CodecTimes(encode=encode, decode=decode, files=files)


def ranking_seconds(logits: np.ndarray) -> float:
    """What the ranks, confidence and entropy of a row take: (n, C) float32."""
    return _best(lambda: (rank_classes(logits), confidence_and_entropy(logits))) / len(logits)


def table_seconds(samples: pa.Table) -> float:
    """What a row of the samples table takes to be written, as Parquet, into memory."""
    return _best(lambda: to_parquet(samples)) / len(samples)


def extraction_seconds(
    manifest: Manifest,
    size: StoreBytes,
    pilot: Pilot,
    disk: Disk,
    *,
    start: float,
    ranking: float,
    table: float,
    codec: CodecTimes,
    reference: CodecTimes,
) -> float:
    """How long an extraction takes.

    While the teacher is at one batch, a thread ranks and encodes the one before; at the end of a chunk the teacher
    waits for it, then until the chunk's files are made, and then for the disk.

    Args:
        manifest: of the store.
        size: of the store.
        pilot: whose pass was measured, with the codec of ``reference``.
        disk: that it is written to.
        start: seconds until data and teacher are loaded.
        ranking: seconds a row.
        table: seconds a row of the samples tables.
        codec: of the store.
        reference: of the pilot.
    """
    grid = manifest.grid
    per_row = pilot.seconds_per_sample
    if manifest.device == "cpu":  # the thread takes its time from the teacher's
        per_row = max(per_row + codec.encode - reference.encode, ranking + codec.encode)
    else:
        per_row = max(per_row, codec.encode)
    rows = grid.num_samples * grid.num_views
    waits = grid.num_chunks * pilot.batch_size * (ranking + codec.encode)
    making = rows / grid.chunk_rows * codec.files + grid.num_samples * table
    files = grid.num_chunks * (len(payload_layout(manifest).chunk_sizes(0)) + 1) + grid.chunks_per_view
    writes = disk.seconds(files, size.total)
    return start + grid.num_views * pilot.warm_up_seconds + per_row * rows + waits + making + writes


def break_even(seconds: float, num_samples: int, student: StudentTimes, decode: float) -> int | None:
    """The fewest students for which extraction and training from the store take less time than a live teacher.

    Args:
        seconds: of the extraction.
        num_samples: N.
        student: its step, with the teacher live and without.
        decode: seconds a row that reading the store takes.
    """
    saved = student.live_seconds_per_sample - student.seconds_per_sample - decode
    if saved <= 0:
        return None
    return math.floor(seconds / (saved * student.epochs * num_samples)) + 1


def _best(work: Callable[[], object]) -> float:
    return min(_seconds(work) for _ in range(_REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
