"""Stage 1: run the teacher once over a data set and write its logits and ranks to a store.

data set -> samples with stable ids -> input tensors -> teacher's logits -> chunks of rows -> store
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..stores import ArrayInfo, Manifest, StoreWriter, UsageError, epoch_order
from ..stores import manifest as manifests
from ..stores.arrays import GEOMETRY_ARRAYS, MIXING_ARRAYS, class_dtype
from ..stores.codecs import Codec, Factorised, Float16, Float32, parse_codec
from ..stores.errors import BadSampleError
from ..stores.groups import assign_groups, group_names
from ..stores.layout import default_chunk_rows
from ..stores.tables import classes_table
from ..stores.writer import timestamp
from .augment import Augmentation, take_probe
from .config import ExtractConfig
from .data import Samples, load_data
from .data.samples import ArrayItems
from .engines.job import ExtractJob, ExtractResult, Progress
from .engines.local import await_first_rank, make_store
from .features import LastLayer
from .hardware import keep_large_buffers, pick_batch_size, pick_device, pick_precision, pick_workers
from .inputs import InputDataset, readable_positions
from .onnx_runtime import with_onnx_runtime
from .ranks import Ranks
from .specs import Spec
from .teachers import Teacher, load_teacher
from .tensors import Inputs, num_elements
from .views import Preprocessing
from .worker import ChunkWorker

logger = logging.getLogger(__name__)

# on which torch and onnxruntime must agree
_COMPARED_ROWS = 32


def extract(config: ExtractConfig, on_progress: Callable[[Progress], None] = lambda _: None) -> ExtractResult:
    """Run the teacher over the data and write the store; go on where an earlier run was interrupted.

    Args:
        config: what to do.
        on_progress: called after every batch; on Ray, after every few chunks.

    Returns:
        The finished store's manifest. A store that was finished before is left as it is.

    Raises:
        KdpipeError: see the classes in :mod:`kdpipe.stores.errors`; whole chunks stay, and the same call goes on.
    """
    if config.engine == "ray":
        from .engines.ray_actors import make_store_on_ray  # whose actors call prepare

        return make_store_on_ray(config, on_progress)
    return make_store(prepare(config), on_progress, chunks=config.chunks)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What an extraction is made from.

    Attributes:
        inputs: the data set in row order, as the teacher sees it.
        teacher: the teacher.
        workers: reading processes.
        unreadable: how many samples were left out because they could not be read.
    """

    inputs: InputDataset
    teacher: Teacher
    workers: int
    unreadable: int = 0


def prepare(config: ExtractConfig) -> ExtractJob:
    """Load data and teacher, prove that they fit, and begin the store or find what was begun.

    Raises:
        KdpipeError: as :func:`extract`.
    """
    return begin(config, load(config))


def load(config: ExtractConfig) -> Loaded:
    """Load data and teacher, and prove that they fit.

    Raises:
        KdpipeError: as :func:`extract`.
    """
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_large_buffers()
    precision = _precision(config, device)
    found = load_data(config.data)
    samples = _from_readable(found) if config.on_bad_sample == "skip" else found
    teacher = load_teacher(config.teacher, samples, preprocess=config.preprocess, device=device, precision=precision)
    augmentation = None if config.augment is None else Augmentation.parse(config.augment)
    _try_once(teacher, InputDataset(samples, teacher.preprocessing, augmentation=augmentation))
    workers = pick_workers(not isinstance(samples.items, ArrayItems)) if config.workers is None else config.workers
    readable = _readable(samples, teacher.preprocessing, config, workers)
    unreadable, samples = len(found) - len(readable), in_row_order(readable, config.order)
    inputs = InputDataset(samples, teacher.preprocessing, augmentation=augmentation)
    if config.runtime == "onnx":
        teacher = with_onnx_runtime(teacher, _first_inputs(inputs, _COMPARED_ROWS), samples.num_classes)
    elif config.runtime == "compile":
        teacher = teacher.compiled()
    return Loaded(inputs=inputs, teacher=teacher, workers=workers, unreadable=unreadable)


def begin(config: ExtractConfig, loaded: Loaded) -> ExtractJob:
    """Begin the store, or find what was begun.

    Raises:
        KdpipeError: as :func:`extract`.
    """
    samples, teacher = loaded.inputs.samples, loaded.teacher
    codec, constants = codec_of(config, teacher, samples.num_classes)
    groups, rule = assign_groups(config.groups, samples.class_counts, samples.class_names)
    classes = classes_table(samples.class_names, samples.class_counts, group_names(groups))
    manifest = _with_views(config, loaded.inputs.augmentation, _manifest(config, loaded, codec, rule))
    await_first_rank(config.out)
    shares = config.chunks is not None or config.engine == "ray" or not Ranks.from_environment().first
    writer = StoreWriter.open(config.out, manifest, classes, constants, tidy=not shares)
    batch_size = config.batch_size or writer.manifest.batch_size
    worker = ChunkWorker(loaded.inputs, teacher, writer, groups, batch_size=batch_size, num_workers=loaded.workers)
    return ExtractJob(worker=worker, writer=writer, class_groups=groups)


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


def _try_once(teacher: Teacher, inputs: InputDataset) -> None:
    """Run the teacher on one sample, so that a misfit is found before anything is written."""
    teacher.logits(_first_inputs(inputs, 1), inputs.samples.num_classes)


def _first_inputs(inputs: InputDataset, count: int) -> Inputs:
    return inputs.batch(np.arange(min(count, len(inputs)))).inputs


def _from_readable(samples: Samples) -> Samples:
    """The samples from the first that can be read: what inputs are like is found out from it.

    Raises:
        BadSampleError: none can be read.
    """
    for position in range(len(samples)):
        try:
            samples.raw(position)
        except BadSampleError as error:
            logger.warning("left out: %s", error)
        else:
            return samples.select(np.arange(position, len(samples))) if position else samples
    raise BadSampleError(f"No sample of '{samples.spec}' can be read. Look at the first reason above.")


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


def codec_of(config: ExtractConfig, teacher: Teacher, num_classes: int) -> tuple[Codec, dict[str, np.ndarray]]:
    """The codec, with the teacher's number of features where it needs that, and what it stores once."""
    codec = parse_codec(config.codec)
    if not isinstance(codec, Factorised):
        return codec, {}
    layer = LastLayer(teacher.module, teacher.precision)
    if codec.num_features not in (0, layer.num_features):
        raise UsageError(f"The codec is {codec}, the teacher has {layer.num_features} features. Give 'factorised'.")
    return replace(codec, num_features=layer.num_features), layer.constants(num_classes)


def layout(config: ExtractConfig, codec: Codec, num_samples: int, num_classes: int) -> dict[str, Any]:
    """How a store is laid out: its sizes, arrays and codec, as fields of a manifest."""
    depth = min(config.rank_depth or num_classes, num_classes)
    available = {
        "logits": codec.arrays(num_classes),
        "ranks": (ArrayInfo(name="ranks", dtype=class_dtype(num_classes), width=depth),),
    }
    arrays = tuple(array for name in available if name in config.write for array in available[name])
    if "logits" not in config.write:  # nothing is left to be said but whether ranks are compressed
        codec = Float16(compressed=codec.compressed)
    row_bytes = max(array.row_bytes for array in arrays)
    return {
        "num_samples": num_samples,
        "num_classes": num_classes,
        "chunk_rows": min(config.chunk_rows or default_chunk_rows(num_samples, row_bytes), num_samples),
        "arrays": arrays,
        "codec": None if codec in (Float16(), Float32()) else str(codec),
        "payload_format": config.format,
    }


def _manifest(config: ExtractConfig, loaded: Loaded, codec: Codec, group_rule: str) -> Manifest:
    samples, teacher = loaded.inputs.samples, loaded.teacher
    return Manifest(
        **layout(config, codec, len(samples), samples.num_classes),
        dataset=replace(samples.info(), unreadable=loaded.unreadable),
        teacher=teacher.info,
        preprocessing=teacher.preprocessing.to_dict(),
        group_rule=group_rule,
        order=config.order,
        precision=teacher.pass_name,
        device=_device_name(teacher.device),
        batch_size=config.batch_size or _batch_size(teacher, loaded.inputs),
        kdpipe_version=__version__,
        created=timestamp(),
        extractor=config.extractor,
        owner=config.owner,
        licence=config.licence,
        note=config.note,
    )


def _with_views(config: ExtractConfig, augmentation: Augmentation | None, manifest: Manifest) -> Manifest:
    """The manifest with the augmented views that are asked for."""
    if augmentation is None:
        return manifest
    made_for = Preprocessing.from_dict(manifest.preprocessing).crop
    if made_for not in (None, augmentation.size):
        logger.warning(
            "the teacher's preprocessing gives inputs of %d pixels a side, the views are of %d.",
            made_for, augmentation.size,
        )  # fmt: skip
    return manifests.replace(
        manifest,
        num_views=config.views,
        arrays=(*manifest.arrays, *GEOMETRY_ARRAYS, *(MIXING_ARRAYS if augmentation.mixes else ())),
        augmentation=augmentation.to_dict(),
        probe=take_probe(augmentation),
    )


def _batch_size(teacher: Teacher, inputs: InputDataset) -> int:
    """A size that suits the inputs, and on a GPU fits its memory."""
    example, _ = inputs[0]
    wanted = pick_batch_size(num_elements(example), teacher.device)
    if teacher.device.type != "cuda":
        return wanted
    return teacher.fitting_batch_size(_first_inputs(inputs, 1), inputs.samples.num_classes, wanted)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
