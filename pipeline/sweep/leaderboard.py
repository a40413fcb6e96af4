"""The leaderboard of a sweep: settings by rank, with mean and spread over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .config import METRICS
from .table import Row


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One setting.

    Attributes:
        student, loss, settings: what it is.
        seeds: how many of its trials are done.
        mean: of each metric over the seeds.
        spread: sample standard deviation; None of a single seed.
        parameters: of the student.
        seconds: of a training, mean over the seeds.
        best: id of its best trial.
    """

    student: str
    loss: str
    settings: dict[str, str]
    seeds: int
    mean: dict[str, float | None]
    spread: dict[str, float | None]
    parameters: int
    seconds: float
    best: str


def leaderboard(rows: Sequence[Row], metric: str) -> list[Standing]:
    """The settings that have trials that are done, best first; of equal ones the smaller student, then the earlier.

    Args:
        rows: the table.
        metric: by which they are ranked, its mean over the seeds.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.state == "done":
            groups.setdefault(row.point, []).append(row)
    standings = [_standing(group, metric) for group in groups.values()]
    return sorted(standings, key=lambda standing: (-rank_value(standing.mean[metric]), standing.parameters))


def rank_value(value: float | None) -> float:
    """A metric for ranking: a group without samples has none, which is the worst."""
    return float("-inf") if value is None else value


def mean_of(rows: Sequence[Row], metric: str) -> float | None:
    """The mean of a metric over trials that have it."""
    values = [value for row in rows if (value := getattr(row, metric)) is not None]
    return statistics.fmean(values) if values else None


def _standing(rows: Sequence[Row], metric: str) -> Standing:
    first = rows[0]
    return Standing(
        student=first.student,
        loss=first.loss,
        settings=first.settings,
        seeds=len(rows),
        mean={name: mean_of(rows, name) for name in METRICS},
        spread={name: _spread(rows, name) for name in METRICS},
        parameters=first.parameters or 0,
        seconds=statistics.fmean(row.seconds or 0.0 for row in rows),
        best=max(rows, key=lambda row: rank_value(getattr(row, metric))).id,
    )


def _spread(rows: Sequence[Row], metric: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, metric)) is not None]
    return statistics.stdev(values) if len(values) > 1 else None
