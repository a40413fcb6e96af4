"""The trials of a sweep: their configurations, and what came of them, kept in the table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...stores import Store
from ..config import DistillConfig
from ..training.run_folder import STUDENT
from .config import METRICS
from .engine import Outcome
from .leaderboard import mean_of
from .search import Score
from .space import Point, Space, recorded
from .table import Row, write_table

RUNS = "runs"


class Trials:
    """The trials so far. Those that an earlier call has settled are not trained again.

    Args:
        space: of the sweep.
        store_of: the store that a trial learns from.
        found: what the table of an earlier call holds.

    Attributes:
        store_of: as given.
        rows: by id.
        configs: of their runs, by id.
    """

    def __init__(
        self, space: Space, store_of: Callable[[DistillConfig], Store | None], found: Sequence[Row] = ()
    ) -> None:
        self.space, self.store_of = space, store_of
        self._root = space.config.base.out
        self._found = {row.id: row for row in found}
        self.rows: dict[str, Row] = {}
        self.configs: dict[str, DistillConfig] = {}

    def add(self, points: Sequence[Point]) -> list[str]:
        """Enter the trials of these settings, one for each seed; returns their ids."""
        ids = [self._enter(point, seed) for point in points for seed in self.space.config.seeds]
        self.save()
        return ids

    def waiting(self, ids: Sequence[str], until: int | None) -> dict[str, DistillConfig]:
        """The configurations of those that have epochs left before ``until``."""
        rows = {i: self.rows[i] for i in ids if self.rows[i].state == "waiting"}
        return {i: self.configs[i] for i, row in rows.items() if until is None or row.epochs_done < until}

    def settle(self, trial: str, outcome: Outcome, until: int | None) -> Row:
        """Enter what came of a trial."""
        row, epochs, summary = self.rows[trial], self.configs[trial].epochs, outcome.summary
        if summary is None:
            row = replace(row, state="diverged" if outcome.diverged else "failed", error=outcome.error)
        else:
            done = epochs
            if until is not None and outcome.trained:  # not one that was finished before
                done = min(until, epochs)
            row = replace(
                row,
                state="done" if done == epochs else "waiting",
                epochs_done=done,
                **{name: summary["val"][name] for name in METRICS},
                train_loss=summary["train_loss"],
                parameters=summary["num_parameters"],
                seconds=summary["seconds"],
            )
        self.rows[trial] = row
        return row

    def stop(self, rows: Sequence[Row]) -> list[Row]:
        """Mark trials as pruned."""
        stopped = [replace(row, state="pruned") for row in rows]
        self.rows |= {row.id: row for row in stopped}
        self.save()
        return stopped

    def halved(self, ids: Sequence[str], epoch: int) -> bool:
        """Whether the worse half was stopped after this epoch."""
        return any(self.rows[i].state == "pruned" and self.rows[i].epochs_done == epoch for i in ids)

    def by_point(self, ids: Sequence[str]) -> Mapping[tuple[str, ...], list[Row]]:
        """The trials of each setting."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for i in ids:
            groups.setdefault(self.rows[i].point, []).append(self.rows[i])
        return groups

    def score(self, point: Point) -> Score:
        """What came of a setting."""
        tried = [row for row in self.rows.values() if row.point == _row(point, 0, "", None).point]
        stopped = next((row.epochs_done for row in tried if row.state == "pruned"), None)
        return Score(value=mean_of(tried, self.space.config.metric), stopped=stopped)

    def save(self) -> None:
        """Write the table."""
        write_table(self._root, (self._found | self.rows).values(), list(self.space.config.settings))

    def _enter(self, point: Point, seed: int) -> str:
        trial = f"{len(self.rows):04d}"
        config = self.space.trial(point, seed, self._root / RUNS / trial)
        row = _row(point, seed, trial, self.store_of(config))
        found = self._found.get(trial)
        if found is not None and (found.point, found.seed) == (row.point, seed) and _is_whole(found, self._root):
            row = found
        self.rows[trial], self.configs[trial] = row, config
        return trial


def _row(point: Point, seed: int, trial: str, store: Store | None) -> Row:
    settings = {key: recorded(key, value) for key, value in point.items() if key not in ("student", "loss")}
    return Row(
        id=trial,
        student=point["student"],
        loss=point["loss"],
        seed=seed,
        settings=settings,
        store_id=None if store is None else store.manifest.store_id,
        path=f"{RUNS}/{trial}",
    )


def _is_whole(row: Row, root: Path) -> bool:
    """Whether what the table says is done is there; the rest is found out by going on with it."""
    return row.state != "done" or (root / row.path / STUDENT).exists()
