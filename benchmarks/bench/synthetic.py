"""Made-up data: images in memory, logits of clustered classes, and stores written without a teacher."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from kdpipe.pipeline.data.registry import data_source
from kdpipe.pipeline.data.samples import ArrayItems, Samples
from kdpipe.pipeline.specs import Spec
from kdpipe.stores import ArrayInfo, Manifest, StoreWriter
from kdpipe.stores.arrays import GROUP_NAMES
from kdpipe.stores.layout import default_chunk_rows
from kdpipe.stores.manifest import DatasetInfo, TeacherInfo
from kdpipe.stores.ranking import rank_classes
from kdpipe.stores.tables import SAMPLES_SCHEMA, classes_table


@dataclass(frozen=True)
class SyntheticOptions:
    """Options of ``synthetic``: how many images of how many classes, and their side in pixels."""

    num: int = 1024
    classes: int = 100
    size: int = 32


@data_source("synthetic")
def synthetic(spec: Spec) -> Samples:
    """Noise images, labels in turn."""
    options = spec.into(SyntheticOptions)
    labels = np.arange(options.num) % options.classes
    return Samples(
        spec=str(spec),
        items=_noise(options.num, options.size),
        indices=np.arange(options.num),
        sample_ids=pa.array(map(str, range(options.num)), pa.string()),
        labels=labels,
        class_names=tuple(map(str, range(options.classes))),
    )


@functools.lru_cache(maxsize=2)
def _noise(num: int, size: int) -> ArrayItems:
    """Made once: what it costs to make noise is not measured."""
    return ArrayItems(np.random.default_rng(0).integers(0, 256, (num, size, size, 3), np.uint8))


def logits(generator: np.random.Generator, num: int, num_classes: int) -> np.ndarray:
    """(num, C) float32: noise with one class well above it."""
    values = 2.5 * generator.standard_normal((num, num_classes), np.float32)
    values[np.arange(num), generator.integers(0, num_classes, num)] += 10
    return values


def write_store(
    path: Path,
    num: int,
    num_classes: int,
    *,
    arrays: tuple[str, ...] = ("logits",),
    chunk_rows: int | None = None,
    labels: np.ndarray | None = None,
) -> None:
    """A finished store of made-up logits at ``path``, left alone if it is there."""
    if (path / "manifest.json").exists():
        return
    infos = {
        "logits": ArrayInfo(name="logits", dtype="float16", width=num_classes),
        "ranks": ArrayInfo(name="ranks", dtype="uint8" if num_classes <= 256 else "uint16", width=num_classes),
    }
    manifest = Manifest(
        num_samples=num,
        num_classes=num_classes,
        chunk_rows=chunk_rows or default_chunk_rows(num, 2 * num_classes),
        arrays=tuple(infos[name] for name in arrays),
        dataset=DatasetInfo(spec="synthetic", sample_ids="", labels="", classes=""),
        teacher=TeacherInfo(spec="synthetic", checksum="", num_parameters=0),
        preprocessing={},
        group_rule="thirds",
        batch_size=256,
        kdpipe_version="0",
        created="",
    )
    groups = [GROUP_NAMES[3 * number // num_classes] for number in range(num_classes)]
    names = [str(number) for number in range(num_classes)]
    writer = StoreWriter.open(path, manifest, classes_table(names, [1] * num_classes, groups))
    generator = np.random.default_rng(0)
    labels = np.arange(num) % num_classes if labels is None else labels
    for chunk in writer.missing_chunks():
        rows = manifest.grid.rows(chunk)
        values = logits(generator, len(rows), num_classes)
        payload = {"logits": values}
        if "ranks" in arrays:
            payload["ranks"] = rank_classes(values)
        writer.write_chunk(chunk, payload, _samples(rows, labels[rows.start : rows.stop], groups))
    writer.finish()


def _samples(rows: range, labels: np.ndarray, groups: list[str]) -> pa.Table:
    columns = {
        "row": np.arange(rows.start, rows.stop),
        "sample_id": pa.array(np.arange(rows.start, rows.stop)).cast(pa.string()),
        "label": labels,
        "group": np.array(groups)[labels],
        "teacher_top1": labels,
        "teacher_correct": np.ones(len(rows), bool),
        "teacher_confidence": np.ones(len(rows), np.float32),
        "teacher_entropy": np.zeros(len(rows), np.float32),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in SAMPLES_SCHEMA], schema=SAMPLES_SCHEMA)
