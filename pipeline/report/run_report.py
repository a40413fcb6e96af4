"""All that can be told of a training run: curves, accuracy by group and by class, beside a baseline and a teacher."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pyarrow as pa

from ...stores import KdpipeError, MismatchError, RefusedError, Store, UsageError, open_store
from ...stores.arrays import GROUP_NAMES
from ...stores.tables import open_parquet
from ..specs import Spec
from ..training.run_folder import CLASSES, CONFIG, METRICS, SUMMARY
from .sample_tables import sample_statistics

_COLUMNS = ("class_id", "name", "train_count", "group", "val_count", "val_correct")


@dataclass(frozen=True, kw_only=True)
class ClassResults:
    """Validation by class, (C,) each.

    Attributes:
        names: of the classes.
        counts: training samples.
        groups: 0 head, 1 medium, 2 tail.
        rows: validation samples.
        correct: of these, how many were named rightly.
    """

    counted: ClassVar[str] = "training samples of the class"

    names: tuple[str, ...]
    counts: tuple[int, ...]
    groups: tuple[int, ...]
    rows: tuple[int, ...]
    correct: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's folder, as far as it has been written.

    Attributes:
        path: the folder.
        config: what was asked for and decided, without secrets.
        records: one of each epoch: losses, learning rate, and validation accuracies where there was one.
        summary: None while the run is not finished.
        classes: None where the run had no validation, or was made before runs kept this.
    """

    path: str
    config: dict[str, Any]
    records: tuple[dict[str, Any], ...]
    summary: dict[str, Any] | None
    classes: ClassResults | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.path).resolve().name

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of the parts of the objective, the whole first."""
        known = {"epoch", "lr", "seconds", "images_per_second"}
        names = [name for name in (self.records[0] if self.records else {}) if name not in known]
        return tuple(name for name in names if not name.startswith("val_"))

    @property
    def accuracy(self) -> dict[str, float]:
        """The last validation: "overall", "balanced" and the groups that have samples; empty without one."""
        for record in reversed(self.records):
            found = {k.removeprefix("val_"): v for k, v in record.items() if k.startswith("val_") and v is not None}
            if found:
                return found
        return {}

    def curve(self, name: str) -> tuple[tuple[float, float], ...]:
        """(epoch, value) of a name of the records, where it is told; epochs count from 1."""
        pairs = ((record["epoch"] + 1, record.get(name)) for record in self.records)
        return tuple((float(epoch), float(value)) for epoch, value in pairs if value is not None)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The teacher, on the samples of a store.

    Attributes:
        spec: of the teacher.
        store: where the store lies.
        data: the samples, as the store names them.
        same_data: whether they are those that the run is validated on.
        accuracy: "overall" and the groups.
        classes: fraction right of each class, NaN without samples.
    """

    spec: str
    store: str
    data: str
    same_data: bool
    accuracy: dict[str, float]
    classes: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A run beside what it is compared with."""

    run: Run
    baseline: Run | None = None
    teacher: Teacher | None = None


def report_run(path: Path, baseline: Path | None = None, store: Path | str | None = None) -> RunReport:
    """Read a run, and what it is compared with.

    Args:
        path: the run's folder; it may still be running.
        baseline: another run's.
        store: of a teacher on any samples of the same classes; best on those the run is validated on.

    Raises:
        RefusedError: nothing has been measured yet.
        MismatchError: the baseline or the store has other classes.
        KdpipeError: a file cannot be read.
    """
    run = read_run(path)
    other = None if baseline is None else read_run(baseline)
    if run.classes and other and other.classes and run.classes.names != other.classes.names:
        raise MismatchError(
            f"The classes of {baseline} are not those of {path}, in that order. Give a run of the same data."
        )
    return RunReport(run=run, baseline=other, teacher=None if store is None else _teacher(open_store(store), run))


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        RefusedError: it is no run, or no epoch is finished yet.
        KdpipeError: a file cannot be read, or is not what a run writes.
    """
    records = tuple(_read_lines(path / METRICS))
    if not records and not (path / CONFIG).is_file():
        raise RefusedError(f"{path} is no run: it has no {METRICS}. Give the folder that `kdpipe distill` wrote.")
    if not records:
        raise RefusedError(f"{path} has no finished epoch yet: there is nothing to report.")
    return Run(
        path=str(path),
        config=_public(_read(path / CONFIG) or {}),
        records=records,
        summary=_read(path / SUMMARY),
        classes=_read_classes(path / CLASSES),
    )


def _teacher(store: Store, run: Run) -> Teacher:
    if run.classes and tuple(store.class_names) != run.classes.names:
        raise MismatchError(f"The classes of {store} are not those of {run.path}, in that order. Give another --store.")
    found, groups = sample_statistics(store), store.class_groups
    groups = np.array(run.classes.groups) if run.classes else groups  # the student's, so that both mean the same
    rows, correct = np.array(found.class_rows, float), np.array(found.class_correct, float)
    accuracy = {"overall": correct.sum() / rows.sum()}
    for number, name in enumerate(GROUP_NAMES):
        if rows[groups == number].sum():
            accuracy[name] = correct[groups == number].sum() / rows[groups == number].sum()
    with np.errstate(invalid="ignore"):
        classes = correct / rows
    manifest = store.manifest
    return Teacher(
        spec=manifest.teacher.spec,
        store=str(store),
        data=manifest.dataset.spec,
        same_data=manifest.dataset.spec == run.config.get("val"),
        accuracy={name: float(value) for name, value in accuracy.items()},
        classes=tuple(classes.tolist()),
    )


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that may be shown to others: specs without what looks like a secret, as stores record them."""
    shown = {}
    for name in ("student", "data", "val"):
        with contextlib.suppress(UsageError):  # not a spec: nothing to take out
            shown[name] = Spec.parse(config[name]).public() if isinstance(config.get(name), str) else None
    return {**config, **shown}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise KdpipeError(f"{path} cannot be read ({error}). Is this the folder of a run?") from None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
        records = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
        return [record for record in records if isinstance(record.get("epoch"), int)]
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise KdpipeError(f"{path} cannot be read ({error}). Is this the folder of a run?") from None


def _read_classes(path: Path) -> ClassResults | None:
    try:
        with open_parquet(path) as file:
            table = file.read(columns=list(_COLUMNS)).to_pydict()
        groups = tuple(GROUP_NAMES.index(name) for name in table["group"])
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise KdpipeError(f"{path} cannot be read ({error}). Is this the folder of a run?") from None
    return ClassResults(
        names=tuple(table["name"]),
        counts=tuple(table["train_count"]),
        groups=groups,
        rows=tuple(table["val_count"]),
        correct=tuple(table["val_correct"]),
    )
