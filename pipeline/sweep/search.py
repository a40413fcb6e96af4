"""Which settings a sweep tries, and when: all of them, or those that Optuna's TPE suggests."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...stores.errors import missing_extra
from .space import Point, Space

# settings that TPE suggests before it learns what came of them: they can be trained side by side
_AT_ONCE = 4
# suggestions before the search falls back to what the grid has left
_PATIENCE = 100


@dataclass(frozen=True, kw_only=True)
class Score:
    """What came of a setting.

    Attributes:
        value: the metric, mean over the seeds; None where all failed.
        stopped: the epoch after which it was pruned, and to which the value belongs; None where it was not.
    """

    value: float | None
    stopped: int | None = None


ScoreOf = Callable[[Point], Score]


def suggestions(space: Space, score: ScoreOf) -> Iterator[list[Point]]:
    """The settings to try, a few at a time; the next few are asked for when these are trained.

    Args:
        space: of the sweep.
        score: what came of a setting that was tried.
    """
    trials = space.config.trials
    return iter([space.points()]) if trials is None else _tpe(space, trials, score)


def import_optuna() -> Any:
    """Optuna, which does not say what it does.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import optuna  # takes most of a second
    except ImportError:
        raise missing_extra("sweep", "--search tpe") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _tpe(space: Space, num_points: int, score: ScoreOf) -> Iterator[list[Point]]:
    """Different settings, suggested by TPE (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011).

    What is suggested is a function of the settings tried before and their scores, and of nothing else: a sweep that was
    killed asks for the same ones again. The sweep's table is therefore all the storage that the study needs.
    """
    grid, tried = space.points(), []
    num_points = min(num_points, len(grid))
    while len(tried) < num_points:
        wanted = min(_AT_ONCE, num_points - len(tried))
        study = _study(space, [(point, score(point)) for point in tried], num_points)
        new: list[Point] = []
        for _ in range(_PATIENCE):
            if len(new) == wanted:
                break
            point = space.simplified(study.ask(_distributions(space)).params)
            if point not in tried and point not in new:
                new.append(point)
        left = [point for point in grid if point not in tried and point not in new]
        new += left[: wanted - len(new)]
        yield new
        tried += new


def _study(space: Space, told: Sequence[tuple[Point, Score]], num_points: int) -> Any:
    """A study that knows what came of the settings tried so far."""
    optuna = import_optuna()
    startup = min(10, max(1, num_points // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constant_liar
        sampler = optuna.samplers.TPESampler(seed=len(told), n_startup_trials=startup, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    states, distributions = optuna.trial.TrialState, _distributions(space)
    for point, score in told:
        # an option that does not concern the loss has some value for Optuna, always the same
        params = {name: point.get(name, values[0]) for name, values in space.dimensions.items()}
        value, stopped = score.value, score.stopped
        known: dict[str, Any] = {"state": states.COMPLETE, "value": value}
        if value is None:
            known = {"state": states.FAIL}
        elif stopped is not None:
            known = {"state": states.PRUNED, "intermediate_values": {stopped: value}}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, **known))
    return study


def _distributions(space: Space) -> dict[str, Any]:
    categorical = import_optuna().distributions.CategoricalDistribution
    return {name: categorical(values) for name, values in space.dimensions.items()}
