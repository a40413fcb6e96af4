"""The one table of a sweep, ``trials.parquet``: a row for every trial."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ...stores.errors import KdpipeError
from ...stores.files import write_file
from ...stores.tables import open_parquet, to_parquet
from .config import METRICS

TABLE = "trials.parquet"

State = Literal["waiting", "done", "pruned", "diverged", "failed"]

_BEFORE = [("id", pa.string()), ("state", pa.string()), ("error", pa.string()), ("student", pa.string()),
           ("loss", pa.string()), ("seed", pa.int64())]  # fmt: skip
_AFTER = [("epochs_done", pa.int64()), *((metric, pa.float64()) for metric in METRICS), ("train_loss", pa.float64()),
          ("parameters", pa.int64()), ("seconds", pa.float64()), ("store_id", pa.string()),
          ("path", pa.string())]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial.

    Attributes:
        id: its number, from 0000.
        state: ``waiting`` (it has epochs left), ``done``, ``pruned``, ``diverged`` or ``failed``.
        error: what took it out.
        student, loss, seed: as given.
        settings: the other options that were set, as text; one that does not concern its loss is not there.
        epochs_done: how many are trained.
        overall, balanced, head, medium, tail: validation accuracies after the last of them.
        train_loss: mean loss of the last of them.
        parameters: of the student.
        seconds: of training: its own steps, and its share of reading the data.
        store_id: of the store.
        path: folder of the run, in the sweep's.
    """

    id: str
    state: State = "waiting"
    error: str | None = None
    student: str
    loss: str
    seed: int
    settings: dict[str, str] = field(default_factory=dict)
    epochs_done: int = 0
    overall: float | None = None
    balanced: float | None = None
    head: float | None = None
    medium: float | None = None
    tail: float | None = None
    train_loss: float | None = None
    parameters: int | None = None
    seconds: float | None = None
    store_id: str | None = None
    path: str

    @property
    def point(self) -> tuple[str, ...]:
        """What it has in common with the trials of other seeds."""
        return self.student, self.loss, *(f"{key}={value}" for key, value in self.settings.items())


def write_table(root: Path, rows: Iterable[Row], settings: Sequence[str]) -> None:
    """Write the table, whole or not at all; a column for each of the ``settings``."""
    schema = pa.schema([*_BEFORE, *((key, pa.string()) for key in settings), *_AFTER])
    records = [{**dataclasses.asdict(row), **{key: row.settings.get(key) for key in settings}} for row in rows]
    columns = {name: [record[name] for record in records] for name in schema.names}
    write_file(root, TABLE, to_parquet(pa.table(columns, schema=schema)))


def read_table(root: Path, settings: Sequence[str]) -> list[Row]:
    """The rows of a sweep's table; none where there is no table yet.

    Raises:
        KdpipeError: it cannot be read, or is another sweep's.
    """
    path = root / TABLE
    if not path.exists():
        return []
    names = [field.name for field in dataclasses.fields(Row) if field.name != "settings"]
    try:
        with open_parquet(path) as file:
            records: list[dict[str, Any]] = file.read().to_pylist()
        return [
            Row(
                **{name: record[name] for name in names},
                settings={key: record[key] for key in settings if record[key] is not None},
            )
            for record in records
        ]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise KdpipeError(
            f"{path} cannot be read ({error}). Remove it and run the sweep again: trials that are done are kept."
        ) from None
