"""A sweep: settings are suggested, trained in cohorts, pruned, and ranked.

space -> suggestions -> trials -> cohorts, each trained side by side -> trials.parquet -> leaderboard -> best student
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ... import __version__
from ...stores import Store, UsageError
from ...stores.files import replacing
from ...stores.remote.location import Location
from ..config import DistillConfig
from ..distill import arrays_needed, open_training_store
from ..losses import Objective
from ..training.run_folder import FREE, STUDENT, claim_folder
from ..training.training_data import check_views
from .cohorts import cohorts, student_bytes
from .config import SweepConfig
from .engine import Engine, Outcome, open_engine
from .halving import rungs, worse_half
from .leaderboard import Standing, leaderboard
from .search import import_optuna, suggestions
from .space import Space, setting_texts
from .table import Row, read_table
from .trials import RUNS, Trials

BEST = "best.safetensors"
# where trials are trained, and how many at once: the result is the same
_FREE = frozenset({"cohort", "engine", "cpus"})

OnRow = Callable[[Row], None]
StoreOf = Callable[[DistillConfig], Store | None]


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep gives.

    Attributes:
        rows: every trial, as in ``trials.parquet``.
        leaderboard: the settings, best first.
        best: weights of the best student of the best setting, with its model card; None where no trial was done.
    """

    rows: list[Row]
    leaderboard: list[Standing]
    best: Path | None


def sweep(config: SweepConfig, on_row: OnRow = lambda _: None) -> SweepResult:
    """Train the students of a sweep; go on where an earlier call was interrupted.

    Args:
        config: what to do.
        on_row: called with each trial that ends.

    Returns:
        The trials and their ranking. A trial that fails or diverges is marked, and the others go on.

    Raises:
        KdpipeError: see the classes in :mod:`kdpipe.stores.errors`.
    """
    space, store_of, root = Space(config), _opened(), config.base.out
    _check(space, store_of)
    begun = (root / RUNS).exists
    with (
        open_engine(config) as engine,
        claim_folder(root, _resolved(space, store_of), begun=begun, free=FREE | _FREE, what="sweep"),
    ):
        trials = Trials(space, store_of, read_table(root, list(config.settings)) if begun() else [])
        for points in suggestions(space, trials.score):
            ids = trials.add(points)
            for epoch in rungs(len(points), config.base.epochs) if config.prune else ():
                _train(trials, ids, epoch, engine, on_row)
                if not trials.halved(ids, epoch):
                    for row in trials.stop(worse_half(trials.by_point(ids), config.metric)):
                        on_row(row)
            _train(trials, ids, None, engine, on_row)
        rows = list(trials.rows.values())
        standings = leaderboard(rows, config.metric)
        return SweepResult(rows=rows, leaderboard=standings, best=_export(root, standings))


def _opened() -> StoreOf:
    """Gives the store of a trial; each store is opened once."""
    stores: dict[str, Store | None] = {}

    def store_of(config: DistillConfig) -> Store | None:
        if str(config.store) not in stores:
            stores[str(config.store)] = open_training_store(config)
        return stores[str(config.store)]

    return store_of


def _check(space: Space, store_of: StoreOf) -> None:
    """Find out before the first trial whether each can be what it is asked to be.

    Raises:
        KdpipeError: a setting cannot be read, a network or a loss does not exist, a store lacks what a loss needs,
            views are not what a loss can take, or Optuna is not installed.
    """
    config = space.config
    if config.prune and "epochs" in config.settings:
        raise UsageError("Halving compares settings after the same number of epochs. Leave out --set epochs.")
    if config.search == "tpe":
        import_optuna()
    for student in config.students:
        student_bytes(student)
    for point in space.points():
        trial = space.trial(point, config.seeds[0], config.base.out)
        store, objective = store_of(trial), Objective.parse(trial.loss, trial.ce_weight)
        arrays_needed(store, objective)
        check_views(trial, store, objective.losses)


def _resolved(space: Space, store_of: StoreOf) -> dict[str, Any]:
    """The configuration by the names of the command line's options, for the record and for resuming."""
    config, base = space.config, space.config.base
    body = msgspec.to_builtins(asdict(base), enc_hook=str)
    for name in ("student", "loss", "seed", "resume"):
        del body[name]
    if base.store is not None:
        body["store"] = str(Location.parse(base.store))  # without what is secret in an address
    optimiser = body.pop("optimiser")
    configs = [space.trial(point, config.seeds[0], base.out) for point in space.points()]
    manifests = {store.manifest.store_id: store.manifest for store in map(store_of, configs) if store is not None}
    return {
        "student": config.students,
        "loss": config.losses,
        "set": setting_texts(config.settings),
        "seeds": config.seeds,
        "search": config.search,
        "trials": config.trials,
        "prune": config.prune,
        "metric": config.metric,
        "cohort": config.cohort,
        "engine": config.engine,
        "cpus": config.cpus,
        **body,
        **optimiser,
        "resolved": {
            "stores": {store_id: manifest.receipts for store_id, manifest in manifests.items()},
            "kdpipe": __version__,
        },
    }


def _train(trials: Trials, ids: Sequence[str], until: int | None, engine: Engine, on_row: OnRow) -> None:
    """Train those that have epochs left before ``until``, in cohorts; what comes of each is in the table at once."""
    waiting = trials.waiting(ids, until)
    left = cohorts(waiting, trials.store_of, engine.cohort_size(len(waiting)))
    while left:
        left = _train_once(trials, left, until, engine, on_row)


def _train_once(
    trials: Trials, together: Sequence[list[str]], until: int | None, engine: Engine, on_row: OnRow
) -> list[list[str]]:
    """Train cohorts; gives cohorts of one, of those that may end well where they are alone."""
    alone: list[list[str]] = []

    def settle(number: int, outcomes: Sequence[Outcome]) -> None:
        alone.extend([trial] for trial in _settle(trials, together[number], outcomes, until, on_row))

    engine.train([[trials.configs[trial] for trial in cohort] for cohort in together], until, settle)
    return alone


def _settle(
    trials: Trials, cohort: Sequence[str], outcomes: Sequence[Outcome], until: int | None, on_row: OnRow
) -> list[str]:
    """Enter what came of a cohort; gives those that may end well where they are alone."""
    ended = [(trial, outcome) for trial, outcome in zip(cohort, outcomes, strict=True) if not outcome.crowded]
    rows = [trials.settle(trial, outcome, until) for trial, outcome in ended]
    trials.save()
    for row in rows:
        if row.state != "waiting":
            on_row(row)
    return [trial for trial, outcome in zip(cohort, outcomes, strict=True) if outcome.crowded]


def _export(root: Path, standings: Sequence[Standing]) -> Path | None:
    """Copy the best student, with the model card in its file."""
    if not standings:
        return None
    with replacing(root / BEST) as temporary:
        temporary.write_bytes((root / RUNS / standings[0].best / STUDENT).read_bytes())
    return root / BEST
