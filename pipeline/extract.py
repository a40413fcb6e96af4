"""Stage 1: run the teacher once over a data set and write its logits and ranks to a store.

data set -> samples with stable ids -> input tensors -> teacher's logits -> chunks of rows -> store
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from .. import __version__
from ..stores import ArrayInfo, Manifest, StoreWriter, UsageError, epoch_order
from ..stores.claims import ChunkClaims
from ..stores.layout import default_chunk_rows, samples_file
from ..stores.manifest import Accuracy
from ..stores.tables import SAMPLES_SCHEMA, classes_table, read_parquet
from ..stores.writer import timestamp
from .accuracy import AccuracyTally
from .config import ExtractConfig
from .data import Samples, load_data
from .data.samples import ArrayItems
from .groups import assign_groups, group_names
from .hardware import pick_batch_size, pick_device, pick_precision, pick_workers
from .inputs import InputDataset, readable_positions
from .teachers import Teacher, load_teacher
from .views import Preprocessing
from .worker import ChunkWorker

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an extraction is.

    Attributes:
        found: samples that an earlier run had written.
        computed: samples the teacher has seen in this run.
        total: samples of the store.
    """

    found: int
    computed: int
    total: int


@dataclass(frozen=True, kw_only=True)
class ExtractResult:
    """What an extraction gives.

    Attributes:
        manifest: of the finished store.
        computed: samples the teacher has seen; 0 where the store was finished before.
    """

    manifest: Manifest
    computed: int


def extract(config: ExtractConfig, on_progress: Callable[[Progress], None] = lambda _: None) -> ExtractResult:
    """Run the teacher over the data and write the store; go on where an earlier run was interrupted.

    Args:
        config: what to do.
        on_progress: called after every batch.

    Returns:
        The finished store's manifest. A store that was finished before is left as it is.

    Raises:
        KdpipeError: see the classes in :mod:`kdpipe.stores.errors`; whole chunks stay, and the same call goes on.
    """
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device, on_gpu="fp16")
    samples = load_data(config.data)
    teacher = load_teacher(config.teacher, samples, preprocess=config.preprocess, device=device, precision=precision)
    _try_once(teacher, samples)
    workers = pick_workers(not isinstance(samples.items, ArrayItems)) if config.workers is None else config.workers
    readable = _readable(samples, teacher.preprocessing, config, workers)
    unreadable, samples = len(samples) - len(readable), _in_row_order(readable, config.order)
    groups, rule = assign_groups(config.groups, samples.class_counts, samples.class_names)
    classes = classes_table(samples.class_names, samples.class_counts, group_names(groups))
    writer = StoreWriter.open(config.out, _manifest(config, samples, teacher, rule, unreadable), classes)
    if writer.complete:
        return ExtractResult(manifest=writer.manifest, computed=0)

    batch_size = config.batch_size or writer.manifest.batch_size
    worker = ChunkWorker(samples, teacher, writer, groups, batch_size=batch_size, num_workers=workers)
    computed = _make_missing_chunks(worker, writer, on_progress)
    manifest = writer.finish(_teacher_accuracy(writer, groups))
    return ExtractResult(manifest=manifest, computed=computed)


def _make_missing_chunks(worker: ChunkWorker, writer: StoreWriter, on_progress: Callable[[Progress], None]) -> int:
    """Make every chunk that is missing and that no other process is making; wait for those that are.

    Returns the number of samples computed here.
    """
    grid, total = writer.manifest.grid, writer.manifest.num_samples
    claims = ChunkClaims(writer.root)
    computed, said = 0, False
    try:
        while missing := writer.missing_chunks():
            found = total - computed - sum(len(grid.rows(chunk)) for chunk in missing)
            before = computed
            for count in worker.run(missing, claims):
                computed = before + count
                on_progress(Progress(found=found, computed=computed, total=total))
            if computed == before:
                if not said and (others := claims.others(missing)):
                    logger.warning("waiting for chunks that another process is making: %s", others[0])
                    said = True
                time.sleep(_WAIT_SECONDS)
    finally:
        claims.release_all()
    return computed


def _try_once(teacher: Teacher, samples: Samples) -> None:
    """Run the teacher on one sample, so that a misfit is found before anything is written."""
    inputs = InputDataset(samples, teacher.preprocessing).batch(np.array([0])).inputs
    teacher.logits(inputs, samples.num_classes)


def _readable(samples: Samples, preprocessing: Preprocessing, config: ExtractConfig, workers: int) -> Samples:
    """With ``on_bad_sample=skip``, the samples that can be read; rows are fixed before the first chunk."""
    if config.on_bad_sample == "fail":
        return samples
    kept, errors = readable_positions(InputDataset(samples, preprocessing), num_workers=workers)
    for error in errors:
        logger.warning("left out: %s", error)
    return samples if not errors else samples.select(kept)


def _in_row_order(samples: Samples, order: str) -> Samples:
    name, _, seed = order.partition(":")
    if order == "dataset":
        return samples
    if name != "shuffled" or (seed and not seed.isdecimal()):
        raise UsageError(f"The order '{order}' is not known. Use dataset, shuffled or shuffled:SEED.")
    positions = np.arange(len(samples))
    return samples.select(epoch_order(positions, len(samples), order="random", seed=int(seed or 0), epoch=0))


def _manifest(config: ExtractConfig, samples: Samples, teacher: Teacher, group_rule: str, unreadable: int) -> Manifest:
    num_classes = samples.num_classes
    depth = min(config.rank_depth or num_classes, num_classes)
    available = {
        "logits": ArrayInfo(name="logits", dtype=config.codec, width=num_classes),
        "ranks": ArrayInfo(name="ranks", dtype="uint8" if num_classes <= 256 else "uint16", width=depth),
    }
    arrays = tuple(available[name] for name in available if name in config.write)
    row_bytes = max(array.row_bytes for array in arrays)
    example = teacher.preprocessing.one(samples.raw(0))
    elements = example.numel() if isinstance(example, torch.Tensor) else 1
    return Manifest(
        num_samples=len(samples),
        num_classes=num_classes,
        chunk_rows=min(config.chunk_rows or default_chunk_rows(len(samples), row_bytes), len(samples)),
        arrays=arrays,
        dataset=replace(samples.info(), unreadable=unreadable),
        teacher=teacher.info,
        preprocessing=teacher.preprocessing.to_dict(),
        group_rule=group_rule,
        order=config.order,
        precision=teacher.precision,
        device=_device_name(teacher.device),
        batch_size=config.batch_size or pick_batch_size(elements, teacher.device),
        kdpipe_version=__version__,
        created=timestamp(),
        extractor=config.extractor,
        owner=config.owner,
        licence=config.licence,
        note=config.note,
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _teacher_accuracy(writer: StoreWriter, class_groups: np.ndarray) -> Accuracy:
    """The teacher's accuracy on view 0, from the samples tables, one row block at a time."""
    grid = writer.manifest.grid
    tally = AccuracyTally(writer.manifest.num_classes)
    for block in range(grid.chunks_per_view):
        path = writer.root / samples_file(block)
        table = read_parquet(path, SAMPLES_SCHEMA, len(grid.rows(block)), ["label", "teacher_top1"])
        tally.add(table["label"].to_numpy(), table["teacher_top1"].to_numpy())
    return tally.accuracy(class_groups)
