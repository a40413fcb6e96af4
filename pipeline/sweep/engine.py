"""Where cohorts are trained, and what comes back from there: settings go, outcomes come, and nothing else travels."""

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from ...stores import KdpipeError, MismatchError, UsageError
from ...stores.errors import BusyError, DeviceMemoryError, DivergedError, MissingArrayError
from ..config import DistillConfig
from ..distill import DistillResult, distill_cohort, shared_settings
from ..ranks import Ranks
from .config import SweepConfig


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        summary: as in ``summary.json``; of a trial that has epochs left, the figures so far. None where it was lost.
        trained: False where it was finished before.
        error: what took it out.
        diverged: whether that was a loss that was no longer finite.
        crowded: whether it may end well where it is alone.
    """

    summary: dict[str, Any] | None = None
    trained: bool = True
    error: str | None = None
    diverged: bool = False
    crowded: bool = False


# called with the number of a cohort and what came of its trials, in their order
OnOutcomes = Callable[[int, Sequence[Outcome]], None]


class Engine(Protocol):
    """Trains cohorts somewhere."""

    def cohort_size(self, num_trials: int) -> int | None:
        """How many of these may be trained side by side at most; None for what memory allows."""
        ...

    def train(self, cohorts: Sequence[Sequence[DistillConfig]], until: int | None, on_outcomes: OnOutcomes) -> None:
        """Train cohorts, in any order.

        Args:
            cohorts: the runs of each.
            until: stop before this epoch.
            on_outcomes: called in this process, as soon as a cohort has ended.

        Raises:
            KdpipeError: what all trials share cannot be had, such as the store.
        """
        ...


def open_engine(config: SweepConfig) -> AbstractContextManager[Engine]:
    """The engine that a sweep asks for.

    Raises:
        MissingExtraError: it is not installed.
        UsageError: this process was started by torchrun.
        KdpipeError: there is no such cluster.
    """
    if not Ranks.from_environment().alone:
        raise UsageError("A sweep trains its students side by side in one process. Run it without torchrun.")
    if config.engine == "local":
        return nullcontext(_Local(config))
    from ..engines.ray_cluster import check_ray

    check_ray()
    from .ray_tune import ray_engine  # imports Ray

    return ray_engine(config)


def train_cohort(configs: Sequence[DistillConfig], until: int | None, *, own_data: bool) -> list[Outcome]:
    """Train a cohort in this process.

    Args:
        configs: of its runs.
        until: stop before this epoch.
        own_data: whether not all trials of the sweep have these data, so that data which do not fit fail these.

    Raises:
        KdpipeError: the store is gone or damaged, data cannot be had, data that all trials share do not fit, or another
            process is training one of these runs.
    """
    outcomes = _outcomes(configs, until, own_data=own_data)
    if any(outcome.crowded for outcome in outcomes):
        gc.collect()  # exceptions hold on to the students that raised them, and to their memory
    return outcomes


def has_own_data(config: SweepConfig) -> bool:
    """Whether the trials of a sweep differ in something that a cohort shares."""
    return bool(config.settings.keys() & shared_settings(config.base).keys())


class _Local:
    """This process: one cohort after the other."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config

    def cohort_size(self, num_trials: int) -> int | None:  # noqa: ARG002  # of the interface
        """See :class:`Engine`."""
        return self._config.cohort

    def train(self, cohorts: Sequence[Sequence[DistillConfig]], until: int | None, on_outcomes: OnOutcomes) -> None:
        """See :class:`Engine`."""
        for number, configs in enumerate(cohorts):
            on_outcomes(number, train_cohort(configs, until, own_data=has_own_data(self._config)))


def _outcomes(configs: Sequence[DistillConfig], until: int | None, *, own_data: bool) -> list[Outcome]:
    """See :func:`train_cohort`; the exceptions of students end here."""
    try:
        results = distill_cohort(configs, until=until)
    except (UsageError, MismatchError, MissingArrayError) as error:  # others may end: a store or a disk can be mended
        if not own_data:
            raise
        results = [error] * len(configs)
    for result in results:
        if isinstance(result, BusyError):
            raise result
    return [_outcome(result, beside_others=len(configs) > 1) for result in results]


def _outcome(result: DistillResult | Exception, *, beside_others: bool) -> Outcome:
    if isinstance(result, DistillResult):
        return Outcome(summary=result.summary, trained=result.trained)
    return Outcome(
        error=str(result) if isinstance(result, KdpipeError) else f"{type(result).__name__}: {result}",
        diverged=isinstance(result, DivergedError),
        crowded=beside_others and isinstance(result, DeviceMemoryError),
    )
