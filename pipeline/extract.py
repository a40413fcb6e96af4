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
from ..stores.arrays import class_dtype
from ..stores.claims import ChunkClaims
from ..stores.codecs import Codec, Factorised, Float16, Float32, parse_codec
from ..stores.layout import default_chunk_rows, samples_file
from ..stores.manifest import Accuracy
from ..stores.tables import SAMPLES_SCHEMA, classes_table, read_parquet
from ..stores.writer import timestamp
from .accuracy import AccuracyTally
from .config import ExtractConfig
from .data import Samples, load_data
from .data.samples import ArrayItems
from .features import LastLayer
from .groups import assign_groups, group_names
from .hardware import keep_large_buffers, pick_batch_size, pick_device, pick_precision, pick_workers
from .inputs import InputDataset, readable_positions
from .onnx_runtime import with_onnx_runtime
from .specs import Spec
from .teachers import Teacher, load_teacher
from .views import Preprocessing
from .worker import ChunkWorker

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5
# on which torch and onnxruntime must agree
_COMPARED_ROWS = 32


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
    if device.type == "cpu":
        keep_large_buffers()
    precision = _precision(config, device)
    samples = load_data(config.data)
    teacher = load_teacher(config.teacher, samples, preprocess=config.preprocess, device=device, precision=precision)
    _try_once(teacher, samples)
    workers = pick_workers(not isinstance(samples.items, ArrayItems)) if config.workers is None else config.workers
    readable = _readable(samples, teacher.preprocessing, config, workers)
    unreadable, samples = len(samples) - len(readable), in_row_order(readable, config.order)
    if config.runtime == "onnx":
        teacher = with_onnx_runtime(teacher, _first_inputs(teacher, samples, _COMPARED_ROWS), samples.num_classes)
    elif config.runtime == "compile":
        teacher = teacher.compiled()
    codec, constants = _codec(config, teacher, samples.num_classes)
    groups, rule = assign_groups(config.groups, samples.class_counts, samples.class_names)
    classes = classes_table(samples.class_names, samples.class_counts, group_names(groups))
    manifest = _manifest(config, samples, teacher, codec, rule, unreadable)
    writer = StoreWriter.open(config.out, manifest, classes, constants)
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


def _precision(config: ExtractConfig, device: torch.device) -> str:
    """The precision of the pass; onnxruntime has no autocast."""
    is_file = Spec.parse(config.teacher).name == "onnx"
    if is_file and config.runtime == "compile":
        raise UsageError("An ONNX file is run by onnxruntime, which torch.compile cannot change. Leave --runtime out.")
    if not is_file and config.runtime != "onnx":
        return pick_precision(config.precision, device, on_gpu="fp16")
    if config.precision not in ("auto", "fp32"):
        raise UsageError(
            f"onnxruntime computes in the precision of the network, not in {config.precision}. Leave --precision out."
        )
    return "fp32"


def _try_once(teacher: Teacher, samples: Samples) -> None:
    """Run the teacher on one sample, so that a misfit is found before anything is written."""
    teacher.logits(_first_inputs(teacher, samples, 1), samples.num_classes)


def _first_inputs(teacher: Teacher, samples: Samples, count: int) -> torch.Tensor:
    return InputDataset(samples, teacher.preprocessing).batch(np.arange(min(count, len(samples)))).inputs


def _readable(samples: Samples, preprocessing: Preprocessing, config: ExtractConfig, workers: int) -> Samples:
    """With ``on_bad_sample=skip``, the samples that can be read; rows are fixed before the first chunk."""
    if config.on_bad_sample == "fail":
        return samples
    kept, errors = readable_positions(InputDataset(samples, preprocessing), num_workers=workers)
    for error in errors:
        logger.warning("left out: %s", error)
    return samples if not errors else samples.select(kept)


def in_row_order(samples: Samples, order: str) -> Samples:
    """The samples in the order in which a store made with ``--order`` has them.

    Raises:
        UsageError: no such order.
    """
    name, _, seed = order.partition(":")
    if order == "dataset":
        return samples
    if name != "shuffled" or (seed and not seed.isdecimal()):
        raise UsageError(f"The order '{order}' is not known. Use dataset, shuffled or shuffled:SEED.")
    positions = np.arange(len(samples))
    return samples.select(epoch_order(positions, len(samples), order="random", seed=int(seed or 0), epoch=0))


def _codec(config: ExtractConfig, teacher: Teacher, num_classes: int) -> tuple[Codec, dict[str, np.ndarray]]:
    """The codec, with the teacher's number of features where it needs that, and what it stores once."""
    codec = parse_codec(config.codec)
    if not isinstance(codec, Factorised):
        return codec, {}
    layer = LastLayer(teacher.module, teacher.precision)
    if codec.num_features not in (0, layer.num_features):
        raise UsageError(f"The codec is {codec}, the teacher has {layer.num_features} features. Give 'factorised'.")
    return replace(codec, num_features=layer.num_features), layer.constants(num_classes)


def _manifest(
    config: ExtractConfig, samples: Samples, teacher: Teacher, codec: Codec, group_rule: str, unreadable: int
) -> Manifest:
    num_classes = samples.num_classes
    depth = min(config.rank_depth or num_classes, num_classes)
    available = {
        "logits": codec.arrays(num_classes),
        "ranks": (ArrayInfo(name="ranks", dtype=class_dtype(num_classes), width=depth),),
    }
    arrays = tuple(array for name in available if name in config.write for array in available[name])
    if "logits" not in config.write:  # nothing is left to be said but whether ranks are compressed
        codec = Float16(compressed=codec.compressed)
    row_bytes = max(array.row_bytes for array in arrays)
    example = teacher.preprocessing.one(samples.raw(0))
    elements = example.numel() if isinstance(example, torch.Tensor) else 1
    return Manifest(
        num_samples=len(samples),
        num_classes=num_classes,
        chunk_rows=min(config.chunk_rows or default_chunk_rows(len(samples), row_bytes), len(samples)),
        arrays=arrays,
        codec=None if codec in (Float16(), Float32()) else str(codec),
        dataset=replace(samples.info(), unreadable=unreadable),
        teacher=teacher.info,
        preprocessing=teacher.preprocessing.to_dict(),
        group_rule=group_rule,
        order=config.order,
        precision=teacher.pass_name,
        device=_device_name(teacher.device),
        batch_size=config.batch_size or _batch_size(teacher, samples, elements),
        kdpipe_version=__version__,
        created=timestamp(),
        extractor=config.extractor,
        owner=config.owner,
        licence=config.licence,
        note=config.note,
    )


def _batch_size(teacher: Teacher, samples: Samples, elements: int) -> int:
    """A size that suits the inputs, and on a GPU fits its memory."""
    wanted = pick_batch_size(elements, teacher.device)
    if teacher.device.type != "cuda":
        return wanted
    return teacher.fitting_batch_size(_first_inputs(teacher, samples, 1), samples.num_classes, wanted)


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
