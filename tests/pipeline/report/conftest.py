"""Small stores of known logits, runs and sweeps for the reports, and a browser to look at their pages."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kdpipe.pipeline.report import ReportConfig, report
from kdpipe.pipeline.sweep.table import Row, State, write_table
from kdpipe.stores import ArrayInfo, Manifest, Store, StoreWriter, open_store
from kdpipe.stores.arrays import GROUP_NAMES, VIEW_ARRAYS, class_dtype
from kdpipe.stores.codecs import parse_codec
from kdpipe.stores.manifest import DatasetInfo, InputDigest, TeacherInfo, fingerprint
from kdpipe.stores.tables import SAMPLES_SCHEMA, classes_table

MakeStore = Callable[..., Store]


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """In float64, by the definition."""
    powers = np.exp(logits.astype(np.float64) / temperature - (logits.astype(np.float64) / temperature).max(1)[:, None])
    return powers / powers.sum(1, keepdims=True)


def long_tailed(num_samples: int = 60, num_classes: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) of a teacher that is biased towards the first classes, and labels that thin out."""
    generator = np.random.default_rng(seed)
    weights = 0.7 ** np.arange(num_classes)
    labels = np.sort(generator.choice(num_classes, num_samples, p=weights / weights.sum()))
    logits = generator.normal(0, 1.5, (num_samples, num_classes)) - 0.2 * np.arange(num_classes)
    logits[np.arange(num_samples), labels] += 2
    return logits.astype(np.float32), labels


def write_store(
    path: Path,
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    groups: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    codec: str = "float32",
    arrays: Sequence[str] = ("logits", "ranks"),
    rank_depth: int | None = None,
    chunk_rows: int = 16,
    chunks: int | None = None,
    spec: str = "folder:photos",
    digest: str = "blake2b:00",
    **fields: Any,
) -> Store:
    """Write these logits as a store; with ``chunks``, only so many of them, and leave it unfinished."""
    num_samples, num_classes = logits.shape
    parsed = parse_codec(codec)
    groups = [3 * number // num_classes for number in range(num_classes)] if groups is None else groups
    ids = [f"{number:05d}" for number in range(num_samples)] if ids is None else ids
    names = [f"class {number}" for number in range(num_classes)] if names is None else names
    ranks = np.argsort(-logits, axis=1, kind="stable")[:, : rank_depth or num_classes]
    info = {
        "logits": parsed.arrays(num_classes),
        "ranks": (ArrayInfo(name="ranks", dtype=class_dtype(num_classes), width=ranks.shape[1]),),
        "mix_rows": (VIEW_ARRAYS["mix_rows"],),
    }
    settings: dict[str, Any] = {
        "num_samples": num_samples,
        "num_classes": num_classes,
        "chunk_rows": chunk_rows,
        "arrays": tuple(array for name in arrays for array in info[name]),
        "codec": None if codec in ("float16", "float32") else str(parsed),
        "dataset": DatasetInfo(
            spec=spec, sample_ids=fingerprint(ids), labels=fingerprint(map(str, labels)),
            classes=fingerprint(names),
        ),
        "teacher": TeacherInfo(spec="torchvision:resnet50", checksum="sha256:00", num_parameters=25_557_032),
        "preprocessing": {"resize": 256},
        "group_rule": "thirds",
        "batch_size": 32,
        "kdpipe_version": "0.1.0",
        "created": "2026-11-21T00:00:00+00:00",
        "licence": "CC-BY-4.0",
    }  # fmt: skip
    manifest = Manifest(**(settings | fields))
    counts = np.bincount(labels, minlength=num_classes)
    classes = classes_table(names, counts, [GROUP_NAMES[group] for group in groups])
    p = softmax(logits)
    columns = {
        "row": np.arange(num_samples), "sample_id": list(ids), "label": labels,
        "group": [GROUP_NAMES[groups[label]] for label in labels], "teacher_top1": ranks[:, 0],
        "teacher_correct": ranks[:, 0] == labels, "teacher_confidence": p.max(1),
        "teacher_entropy": -(p * np.log(np.maximum(p, 1e-300))).sum(1),
    }  # fmt: skip
    samples = pa.table([pa.array(columns[f.name], f.type) for f in SAMPLES_SCHEMA], schema=SAMPLES_SCHEMA)
    stored = {**parsed.encode(logits, np.array(groups)), "ranks": ranks.astype(class_dtype(num_classes))}
    stored["mix_rows"] = np.arange(num_samples, dtype=np.uint32)[:, None]
    writer = StoreWriter.open(path, manifest, classes)
    for chunk in range(manifest.grid.num_chunks if chunks is None else chunks):
        rows = manifest.grid.rows(chunk)
        values = {array.name: stored[array.name][rows.start : rows.stop] for array in manifest.arrays}
        inputs = [InputDigest(row=rows.start, digest=digest)]
        table = samples.slice(rows.start, len(rows)) if manifest.grid.view(chunk) == 0 else None
        writer.write_chunk(chunk, values, table, inputs)
    if chunks is None:
        writer.finish()
    return open_store(path, allow_unfinished=True)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Power cuts are not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def make_store() -> MakeStore:
    """``make_store(path, logits, labels, ...)`` writes a store of these logits."""
    return write_store


@pytest.fixture(scope="session")
def teacher_says() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """``teacher_says(num_samples, num_classes, seed)``: logits and labels of long-tailed data."""
    return long_tailed


@pytest.fixture(scope="session")
def probabilities() -> Callable[..., np.ndarray]:
    """``probabilities(logits, temperature)`` in float64."""
    return softmax


def write_run(
    path: Path,
    *,
    epochs: int = 6,
    finished: bool = True,
    gain: float = 0.0,
    names: Sequence[str] = tuple("abcdef"),
    by_class: bool = True,
    **config: Any,
) -> Path:
    """The folder of a run as training leaves it."""
    path.mkdir(parents=True)
    given = {"student": "kdpipe:convnet_tiny", "loss": ["ltkd"], "epochs": 6, "seed": 0, "val": "folder:photos"}
    (path / "config.json").write_text(json.dumps({**given, **config, "resolved": {"store_id": "0" * 16}}))
    groups = [GROUP_NAMES[3 * number // len(names)] for number in range(len(names))]
    lines = []
    for epoch in range(epochs):
        values = {name: min(1.0, 0.1 * (epoch + 1) + gain) for name in ("overall", "balanced", *GROUP_NAMES)}
        record = {"epoch": epoch, "loss": 2.0 / (epoch + 1), "ce": 1.0 / (epoch + 1), "lr": 0.1, "seconds": 1.0}
        lines.append({**record, **{f"val_{name}": value for name, value in values.items()}})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if by_class:
        counts = [2 ** (len(names) - number) for number in range(len(names))]
        correct = [min(10, round(3 + number + 10 * gain)) for number in range(len(names))]
        columns = {
            "class_id": range(len(names)), "name": list(names), "train_count": counts, "group": groups,
            "val_count": [10] * len(names), "val_correct": correct,
        }  # fmt: skip
        pq.write_table(pa.table(columns), path / "classes.parquet")
    if finished:
        (path / "summary.json").write_text(json.dumps({"num_parameters": 24058, "seconds": 12.0, "seed": 0}))
    return path


def write_sweep(path: Path, *, trials: int = 24, state: State = "done", loss: str = "ltkd,alpha=2") -> Path:
    """The folder of a sweep as far as a report reads it, its table written by the sweep's own code."""
    generator, rows = np.random.default_rng(0), []
    for number in range(trials):
        good, large = number % 3 == 0, number % 2 == 0
        done = state == "done" or number % 4 > 0
        accuracy = 0.5 + 0.2 * good + 0.1 * large + generator.uniform(0, 0.01) if done else None
        rows.append(
            Row(
                id=f"{number:04d}", state="done" if done else state, error=None if done else "out of memory",
                student="kdpipe:resnet8x4" if large else "kdpipe:convnet_tiny", loss=loss if good else "kd",
                seed=number // 12, settings={"lr": ["0.1", "0.05"][number // 6 % 2]}, epochs_done=3, overall=accuracy,
                balanced=accuracy, head=accuracy, tail=accuracy and accuracy - 0.2, train_loss=0.1 if done else None,
                parameters=1_200_000 if large else 24_058, seconds=60.0 + number if large else 5.0 + number,
                store_id="0" * 16, path=f"runs/{number:04d}",
            )
        )  # fmt: skip
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"metric": "overall"}))
    write_table(path, rows, ["lr"])
    return path


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """``make_run(path, ...)`` writes the folder of a run."""
    return write_run


@pytest.fixture(scope="session")
def make_sweep() -> Callable[..., Path]:
    """``make_sweep(path, ...)`` writes the folder of a sweep."""
    return write_sweep


@pytest.fixture
def store(tmp_path: Path, make_store: MakeStore, teacher_says: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Path:
    """A store of 60 samples of 9 classes."""
    make_store(tmp_path / "a.kd", *teacher_says(60, 9))
    return tmp_path / "a.kd"


class Reader(HTMLParser):
    """What a page is made of: its elements, their attributes, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(path: Path, **options: Any) -> Reader:
    """The page of a path."""
    out = path.parent / "page.html"
    report(ReportConfig(path=path, out=out, **options))
    return Reader(out.read_text(encoding="utf-8"))


def find_browser() -> str | None:
    """A Chromium on this machine: ``KDPIPE_CHROMIUM``, or one of the usual names."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    given = os.environ.get("KDPIPE_CHROMIUM")
    return given or next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = find_browser()
    if executable is None:
        pytest.skip("needs a Chromium: none of the usual names is on the path, and KDPIPE_CHROMIUM names none")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = driver.chromium.launch(executable_path=executable, args=arguments)
        yield launched
        launched.close()
