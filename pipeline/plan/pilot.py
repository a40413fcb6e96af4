"""The pilot: a stratified part of the data set, really extracted into a temporary folder, with a clock beside it.

Shapes: N samples, n rows of the pilot, C classes, F features.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...stores import Manifest, Store, open_store
from ...stores.claims import ChunkClaims
from ..config import ExtractConfig
from ..engines.job import ExtractJob
from ..extract import Loaded, begin, layout
from ..inputs import InputDataset

# of the pilot's logits
_MAX_BYTES = 2**28
# the timed pass is cut to so many seconds, going by its first batches
_MAX_SECONDS = 60.0
# batches from which the speed is taken, where the data set has so many
_STEADY_BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What the teacher says of the pilot, and how long that took.

    Attributes:
        positions: (n,) in the data set in row order, ascending.
        arrays: (n, width) by name: ``logits`` float32, ``ranks``, and how views were drawn.
        samples: the samples table of the pilot.
        batch_size: of the pass: of the whole extraction, but no larger than its chunks.
        first_seconds: what the very first batch took on top: compiling, and what libraries do once.
        seconds_per_sample: of the steady state.
        steady_samples: of which it was measured.
        warm_up_seconds: what the first batches took on top.
    """

    positions: np.ndarray
    arrays: dict[str, np.ndarray]
    samples: pa.Table
    batch_size: int
    first_seconds: float
    seconds_per_sample: float
    steady_samples: int
    warm_up_seconds: float

    @property
    def logits(self) -> np.ndarray:
        """(n, C) float32."""
        return self.arrays["logits"]


def stratified(labels: np.ndarray, class_groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A part of a data set in which every group and class has its share, to within one sample.

    Systematic sampling: samples in the order of group, class, chance; every (N / n)-th is taken. Means over it need no
    weights.

    Args:
        labels: (N,) int64.
        class_groups: (C,) group of every class.
        count: n; all samples where they are no more.
        seed: which samples of a class.

    Returns:
        (n,) int64 positions, ascending.
    """
    size = len(labels)
    if count >= size:
        return np.arange(size)
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(size), labels, class_groups[labels]))
    places = ((np.arange(count) + generator.random()) * size / count).astype(np.int64)
    return np.sort(order[places])


def run_pilot(
    config: ExtractConfig,
    loaded: Loaded,
    whole: Manifest,
    class_groups: np.ndarray,
    folder: Path,
    *,
    count: int | None,
    seed: int,
) -> Pilot:
    """Extract a pilot into ``folder``.

    Args:
        config: of the extraction that is planned.
        loaded: its data and teacher.
        whole: of the store, before its first chunk.
        class_groups: (C,) group of every class.
        folder: an empty one, on the disk that is planned for.
        count: n; by default as many as the speed needs, and as a chunk has, whose size may depend on its content.
        seed: of the choice of samples.

    Raises:
        KdpipeError: as :func:`kdpipe.pipeline.extract.extract`.
    """
    labels, chunk_rows = loaded.inputs.samples.labels, _chunk_rows(config, whole)
    batch_size = min(whole.batch_size, chunk_rows)
    read_ahead = 2 * loaded.workers  # batches that lie ready when the first one comes, and when the last is read
    first_seconds, seconds = _batch_seconds(loaded, stratified(labels, class_groups, batch_size, seed))
    if count is None:
        fitting = min(_MAX_SECONDS / seconds, _MAX_BYTES / (batch_size * whole.arrays[0].row_bytes))
        wanted = max(2 * (read_ahead + 2) + _STEADY_BATCHES, -(-chunk_rows // batch_size))
        count = batch_size * max(2, min(wanted, int(fitting)))
    positions = stratified(labels, class_groups, count, seed)
    parts = dataclasses.replace(
        config, codec="float32", views=1, out=folder / "pilot", chunk_rows=len(positions), batch_size=batch_size
    )
    times = _run(begin(parts, select(loaded, positions)))
    first, last = _steady(len(times) - 1, read_ahead + 2)
    steady = min(last * batch_size, len(positions)) - first * batch_size
    per_sample = (times[last] - times[first]) / steady
    store = open_store(parts.out, allow_unfinished=True)
    return Pilot(
        positions=positions,
        arrays=_arrays(store),
        samples=store.samples(),
        batch_size=batch_size,
        first_seconds=max(0.0, first_seconds - seconds),
        seconds_per_sample=per_sample,
        steady_samples=steady,
        warm_up_seconds=max(0.0, times[first] - times[0] - first * batch_size * per_sample),
    )


def features_of(config: ExtractConfig, loaded: Loaded, positions: np.ndarray, folder: Path) -> np.ndarray:
    """The teacher's features (n, F) at some positions, float32, rounded to float16 as the codec ``factorised`` does.

    Raises:
        UsageError, MismatchError: the codec makes no sense for this teacher.
    """
    parts = dataclasses.replace(
        config, codec="factorised", views=1, out=folder / "features", chunk_rows=len(positions), write=("logits",)
    )
    _run(begin(parts, select(loaded, positions)))
    return _arrays(open_store(parts.out, allow_unfinished=True))["features"].astype(np.float32)


def select(loaded: Loaded, positions: np.ndarray) -> Loaded:
    """The same with a part of the data set."""
    inputs = loaded.inputs
    part = InputDataset(
        inputs.samples.select(positions), inputs.preprocessing, augmentation=inputs.augmentation, view=inputs.view
    )
    return dataclasses.replace(loaded, inputs=part)


def _chunk_rows(config: ExtractConfig, whole: Manifest) -> int:
    """Rows of the chunks that the extraction itself will write."""
    return int(layout(config, whole.logit_codec, whole.num_samples, whole.num_classes)["chunk_rows"])


def _steady(batches: int, margin: int) -> tuple[int, int]:
    """From after which batch until after which batch the speed is taken: without the first and the last ones."""
    if batches >= 2 * margin + 2:
        return margin, batches - margin
    return min(1, batches - 1), batches


def _batch_seconds(loaded: Loaded, positions: np.ndarray) -> tuple[float, float]:
    """How long the first batch takes, and how long the second, read in this process."""
    times = [time.perf_counter()]
    for _ in range(2):
        batch = loaded.inputs.batch(positions)
        loaded.teacher.logits(batch.inputs, loaded.inputs.samples.num_classes).cpu()
        times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


def _run(job: ExtractJob) -> list[float]:
    """Make the only chunk of a store; the time before the first batch and after every batch."""
    claims = ChunkClaims(job.writer.root)
    times = [time.perf_counter()]
    try:
        times += [time.perf_counter() for _ in job.worker.run([0], claims)]
    finally:
        claims.release_all()
    return times


def _arrays(store: Store) -> dict[str, np.ndarray]:
    names = tuple(array.name for array in store.manifest.arrays)
    return store.read(np.arange(len(store)), arrays=names)
