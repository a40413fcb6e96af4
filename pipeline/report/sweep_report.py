"""All that can be told of a sweep: its trials, their ranking, and the settings in which they differ."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from ...stores import KdpipeError, RefusedError
from ...stores.tables import open_parquet
from ..sweep.config import METRICS
from ..sweep.leaderboard import Standing, leaderboard, rank_value
from ..sweep.table import TABLE, Row, read_table
from ..training.run_folder import CONFIG
from .words import NONE

SEED = "seed"
_NAMED = ("student", "loss", SEED)


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """A sweep, as far as it has gone.

    Attributes:
        path: its folder.
        metric: by which settings are ranked.
        trials: those that are done, the best first, then the others.
        standings: the settings, with mean and spread over seeds, the best first.
        varied: the names of the settings in which trials differ.
        fixed: the others, and their value.
        store_ids: of the stores that trials learned from; empty where they needed none.
    """

    path: str
    metric: str
    trials: tuple[Row, ...]
    standings: tuple[Standing, ...]
    varied: tuple[str, ...]
    fixed: dict[str, str]
    store_ids: tuple[str, ...]

    @property
    def finished(self) -> tuple[Row, ...]:
        """The trials that can be compared: done, and measured; the best first."""
        return tuple(row for row in self.trials if row.state == "done" and getattr(row, self.metric) is not None)

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics that trials have."""
        return tuple(name for name in METRICS if any(getattr(row, name) is not None for row in self.trials))

    def score(self, row: Row) -> float:
        """A finished trial's metric."""
        return rank_value(getattr(row, self.metric))


def report_sweep(path: Path) -> SweepReport:
    """Read the trials of a sweep; it may still be running.

    Raises:
        RefusedError: there is no trial.
        KdpipeError: a file cannot be read.
    """
    rows = read_table(path, _settings(path / TABLE))
    if not rows:
        raise RefusedError(f"{path} has no trial yet: there is nothing to report.")
    metric = _metric(path / CONFIG)
    standings = leaderboard(rows, metric)  # of the table's order, as the sweep's own: of equal ones, the earlier
    rows.sort(key=lambda row: (row.state != "done", -rank_value(getattr(row, metric))))
    names = [*_NAMED, *dict.fromkeys(name for row in rows for name in row.settings)]
    varied = tuple(name for name in names if len({setting(row, name) for row in rows}) > 1)
    return SweepReport(
        path=str(path),
        metric=metric,
        trials=tuple(rows),
        standings=tuple(standings),
        varied=varied,
        fixed={name: setting(rows[0], name) for name in names if name not in varied},
        store_ids=tuple(sorted({row.store_id for row in rows if row.store_id is not None})),
    )


def setting(row: Row | Standing, name: str) -> str:
    """What a trial has for a setting, as text; ``none`` where it does not concern its loss."""
    return str(getattr(row, name)) if name in _NAMED else row.settings.get(name, NONE)


def _settings(table: Path) -> list[str]:
    """The columns of the table that are settings."""
    try:
        with open_parquet(table) as file:
            names = file.schema_arrow.names
    except (OSError, pa.ArrowException) as error:
        raise KdpipeError(f"{table} cannot be read ({error}). Is this the folder of a sweep?") from None
    return [name for name in names if name not in Row.__dataclass_fields__]


def _metric(config: Path) -> str:
    try:
        metric = msgspec.json.decode(config.read_bytes(), type=dict[str, object]).get("metric")
    except (OSError, msgspec.DecodeError) as error:
        raise KdpipeError(f"{config} cannot be read ({error}). Is this the folder of a sweep?") from None
    if metric not in METRICS:
        raise KdpipeError(f"{config} names no metric. Is this the folder of a sweep?")
    return str(metric)
