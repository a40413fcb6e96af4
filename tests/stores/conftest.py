"""A small real store, written through StoreWriter, for every test of the store."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pytest
from kdpipe.stores import Accuracy, ArrayInfo, Manifest, StoreWriter
from kdpipe.stores.arrays import GROUP_NAMES, class_dtype
from kdpipe.stores.checks.content import labels_fingerprint
from kdpipe.stores.codecs import Factorised, parse_codec
from kdpipe.stores.manifest import DatasetInfo, InputDigest, TeacherInfo, fingerprint
from kdpipe.stores.tables import SAMPLES_SCHEMA, classes_table


@dataclass(frozen=True)
class Content:
    """All that goes into a store: what a teacher would have said, and the store it is to become."""

    manifest: Manifest
    logits: np.ndarray  # (V, N, C) float32
    ranks: np.ndarray  # (V, N, C)
    classes: pa.Table
    samples: pa.Table
    features: np.ndarray | None = None  # (V, N, F) float32, and the classifier that makes logits of them
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def stored(self, name: str, view: int = 0) -> np.ndarray:
        """The (N, width) values that a reader must find."""
        info = self.manifest.array(name)
        assert info is not None
        if name not in ("logits", "ranks"):
            return self._encoded[view][name]
        return {"logits": self.logits, "ranks": self.ranks}[name][view, :, : info.width].astype(info.dtype)

    @cached_property
    def _encoded(self) -> list[dict[str, np.ndarray]]:
        codec, values = self.manifest.logit_codec, self.logits if self.features is None else self.features
        groups = np.array([GROUP_NAMES.index(group) for group in self.classes["group"].to_pylist()])
        return [codec.encode(view, groups) for view in values]

    def write_chunk(self, writer: StoreWriter, chunk: int) -> None:
        grid = self.manifest.grid
        rows, view = grid.rows(chunk), grid.view(chunk)
        arrays = {array.name: self.stored(array.name, view)[rows] for array in self.manifest.arrays}
        samples = self.samples.slice(rows.start, len(rows)) if view == 0 else None
        writer.write_chunk(chunk, arrays, samples, [InputDigest(row=rows.start, digest="blake2b:00")])

    def write(self, path: Path, chunks: Sequence[int] | None = None) -> StoreWriter:
        """Write the chunks (default: all that are missing), without finishing."""
        writer = StoreWriter.open(path, self.manifest, self.classes, self.constants)
        for chunk in writer.missing_chunks() if chunks is None else chunks:
            self.write_chunk(writer, chunk)
        return writer


def make_content(
    num_samples: int = 10,
    num_classes: int = 5,
    chunk_rows: int = 4,
    *,
    arrays: Sequence[str] = ("logits", "ranks"),
    dtype: str = "float16",
    num_views: int = 1,
    rank_depth: int | None = None,
    seed: int = 0,
    codec: str | None = None,
    offset: float = 0,
    **fields: Any,
) -> Content:
    generator, features, constants = np.random.default_rng(seed), None, {}
    logits = generator.normal(0, 5, (num_views, num_samples, num_classes)).astype(np.float32)
    if isinstance(coding := parse_codec(codec or dtype), Factorised):
        features = generator.normal(0, 2, (num_views, num_samples, coding.num_features)).astype(np.float32)
        weight = generator.normal(0, 1, (num_classes, coding.num_features)).astype(np.float32)
        constants = {"classifier_weight": weight, "classifier_bias": weight[:, 0].copy()}
        logits = features @ weight.T + weight[:, 0]
    ranks = np.argsort(-logits, axis=2, kind="stable")
    logits += np.float32(offset)  # a large one makes many of them equal when they are rounded; the ranks know better
    labels = np.arange(num_samples) % num_classes
    names = [f"class {number}" for number in range(num_classes)]
    groups = [GROUP_NAMES[3 * number // num_classes] for number in range(num_classes)]
    ids = [f"images/{number:06d}.png" for number in range(num_samples)]
    rank_info = ArrayInfo(name="ranks", dtype=class_dtype(num_classes), width=rank_depth or num_classes)
    infos = {"logits": coding.arrays(num_classes), "ranks": (rank_info,)}
    top1 = ranks[0, :, 0]
    columns = [
        np.arange(num_samples), ids, labels, [groups[label] for label in labels], top1, top1 == labels,
        np.full(num_samples, 0.5), np.full(num_samples, 0.25),
    ]  # fmt: skip
    table = [pa.array(column, field.type) for column, field in zip(columns, SAMPLES_SCHEMA, strict=True)]
    settings: dict[str, Any] = {
        "num_samples": num_samples,
        "num_classes": num_classes,
        "num_views": num_views,
        "chunk_rows": chunk_rows,
        "arrays": tuple(info for name in arrays for info in infos[name]),
        "codec": None if codec is None else str(coding),
        "dataset": DatasetInfo(
            spec="folder:/data/train",
            sample_ids=fingerprint(ids),
            labels=fingerprint([str(label) for label in labels]),
            classes=fingerprint(names),
        ),
        "teacher": TeacherInfo(spec="torchvision:resnet50", checksum="sha256:00", num_parameters=25_557_032),
        "preprocessing": {"resize": 256, "mean": (0.485, 0.456, 0.406), "interpolation": "bilinear"},
        "group_rule": "thirds",
        "batch_size": 32,
        "kdpipe_version": "0.1.0",
        "created": "2026-11-21T00:00:00+00:00",
    }
    return Content(
        manifest=Manifest(**(settings | fields)),
        logits=logits,
        ranks=ranks,
        classes=classes_table(names, np.bincount(labels, minlength=num_classes), groups),
        samples=pa.table(table, schema=SAMPLES_SCHEMA),
        features=features,
        constants=constants,
    )


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Power cuts are not tested here, so nothing waits for them; test_files sees that each write is synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def write_store() -> Callable[..., Content]:
    """``write_store(path, num_samples, num_classes, chunk_rows, ...)``: a finished store that verifies deeply."""

    def write(path: Path, *args: Any, **settings: Any) -> Content:
        made = make_content(*args, **settings)
        labels = labels_fingerprint(made.samples["label"].to_numpy())
        real = make_content(*args, **settings, dataset=dataclasses.replace(made.manifest.dataset, labels=labels))
        real.write(path).finish(Accuracy(overall=0.5, balanced=0.25))
        return real

    return write


class MakeStore(Protocol):
    def __call__(self, path: Path, *args: Any, **settings: Any) -> Content: ...


@pytest.fixture(scope="session")
def content() -> Callable[..., Content]:
    """``content(num_samples, num_classes, chunk_rows, ...)``: what a store is to hold, not yet written."""
    return make_content


@pytest.fixture(scope="session")
def make_store() -> MakeStore:
    """``make_store(path, num_samples, num_classes, chunk_rows, ...)`` writes a finished store at ``path``."""

    def make(path: Path, *args: Any, **settings: Any) -> Content:
        made = make_content(*args, **settings)
        made.write(path).finish()
        return made

    return make
