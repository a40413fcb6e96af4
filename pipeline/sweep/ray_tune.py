"""Cohorts trained on a Ray cluster, each one a trial of Ray Tune (extra ``ray``).

Ray Tune places the cohorts, several at once, and starts one again whose process was lost, with its node or alone: it
goes on from the checkpoints that its runs have in the sweep's folder, which all nodes must share. The settings of the
runs go to a node, and what is to be entered in the table comes back; weights, data and logits never travel.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.util import client

from ...stores import KdpipeError, UsageError
from ..config import DistillConfig
from ..engines.ray_cluster import cluster, first_line
from .config import SweepConfig
from .engine import OnOutcomes, Outcome, has_own_data, train_cohort

logger = logging.getLogger(__name__)

# what Ray Tune writes down for itself: only where all nodes see it, which it checks; nothing in it is needed later
NOTES = ".ray"
# how often one cohort may lose its process: one that kills every process must not be tried for ever
_ATTEMPTS = 10
# more students side by side gain little, and lose more with their process
_LARGEST = 16
_OUTCOMES, _RAISED = "outcomes", "raised"
# Ray Tune's own habits: a handler of SIGINT that does not end, a working directory for each trial, logs of results
_HABITS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@contextmanager
def ray_engine(config: SweepConfig) -> Iterator["RayTune"]:
    """A cluster to train the cohorts of a sweep on.

    Raises:
        KdpipeError: there is none.
        UsageError: it is reached through Ray Client.
    """
    os.environ.update(_HABITS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it prints traces of what is told here in one line
    with cluster():
        if client.ray.is_connected():
            raise UsageError(
                "A sweep must be started on a node of the cluster, not through ray://. "
                "Set RAY_ADDRESS to HOST:PORT there, or submit the command as a Ray job."
            )
        yield RayTune(config)


class RayTune:
    """Trains cohorts on the nodes of the cluster; see :class:`.engine.Engine`.

    A cohort has ``cpus`` cores and as many threads, and one GPU where the cluster has any. On CPUs it has by default
    as many as torch has threads here, so that the result is that of the local engine bit for bit.

    Args:
        config: of the sweep.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
        self._gpus = int(config.base.device.startswith("cuda") or (config.base.device == "auto" and has_gpus))
        self._cpus = config.cpus or default_cpus(nodes, self._gpus)
        rooms = [places(node, self._cpus, self._gpus) for node in nodes]
        self._places = max(1, sum(rooms))
        if not any(rooms):
            logger.warning(
                "no node of the cluster has %d CPUs%s free for a cohort; waiting for one that has. See --cpus.",
                self._cpus,
                " and a GPU" if self._gpus else "",
            )

    def cohort_size(self, num_trials: int) -> int:
        """As many as keep every place of the cluster busy."""
        return self._config.cohort or min(_LARGEST, -(-num_trials // self._places))

    def train(self, cohorts: Sequence[Sequence[DistillConfig]], until: int | None, on_outcomes: OnOutcomes) -> None:
        """See :class:`.engine.Engine`."""
        notes = self._config.base.out.absolute() / NOTES
        shutil.rmtree(notes, ignore_errors=True)  # of a process that was killed
        told = _Told(cohorts, on_outcomes)
        tuner = tune.Tuner(
            tune.with_resources(self._trainable(cohorts, until), {"cpu": self._cpus, "gpu": self._gpus}),
            param_space={"number": tune.grid_search(list(range(len(cohorts))))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                name="cohorts",
                storage_path=str(notes),
                callbacks=[told],
                stop=_Stopper(told),
                failure_config=tune.FailureConfig(max_failures=_ATTEMPTS - 1),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except tune.TuneError as error:
            raise KdpipeError(f"Ray Tune gave up: {str(error).strip().splitlines()[-1]}") from error
        finally:
            shutil.rmtree(notes, ignore_errors=True)
        if told.raised is not None:
            raise told.raised
        if len(told.ended) < len(cohorts):
            raise KdpipeError("Ray Tune ended before all cohorts did. Run the command again: it goes on.")

    def _trainable(
        self, cohorts: Sequence[Sequence[DistillConfig]], until: int | None
    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """What a process of the cluster runs."""
        absolute = [[replace(config, out=config.out.absolute()) for config in cohort] for cohort in cohorts]
        folder, cpus, own_data = str(Path.cwd()), self._cpus, has_own_data(self._config)

        def cohort(chosen: dict[str, Any]) -> dict[str, Any]:
            return _train_here(absolute[chosen["number"]], until, folder=folder, threads=cpus, own_data=own_data)

        return cohort


def default_cpus(nodes: Sequence[dict[str, float]], gpus: int) -> int:
    """Cores of a cohort: the threads of this process, or as many as the nodes have; with a GPU, its share of a node.

    Args:
        nodes: their resources, as Ray names them.
        gpus: of a cohort, 0 or 1.
    """
    if gpus:
        shares = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
        return max(1, min(shares, default=1))
    return max(1, min(torch.get_num_threads(), max((int(node.get("CPU", 0)) for node in nodes), default=1)))


def places(node: dict[str, float], cpus: int, gpus: int) -> int:
    """How many cohorts of so many cores and GPUs a node has room for at once."""
    by_cpus = int(node.get("CPU", 0) // cpus)
    return min(by_cpus, int(node.get("GPU", 0) // gpus)) if gpus else by_cpus


def _train_here(
    configs: Sequence[DistillConfig], until: int | None, *, folder: str, threads: int, own_data: bool
) -> dict[str, Any]:
    """Train a cohort in a process of the cluster. What concerns all trials is given back, for the driver to raise."""
    if Path(folder).is_dir():  # so that relative names mean what they mean to the driver
        os.chdir(folder)
    torch.set_num_threads(threads)
    try:
        return {_OUTCOMES: train_cohort(configs, until, own_data=own_data)}
    except (KdpipeError, OSError) as error:
        return {_RAISED: error}


class _Told(tune.Callback):
    """Hears of the cohorts as they end.

    Args:
        cohorts: all.
        on_outcomes: called with each.

    Attributes:
        ended: the numbers of those that have.
        raised: what ends the sweep.
    """

    def __init__(self, cohorts: Sequence[Sequence[DistillConfig]], on_outcomes: OnOutcomes) -> None:
        self._cohorts, self._on_outcomes = cohorts, on_outcomes
        self.ended: set[int] = set()
        self.raised: Exception | None = None

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        """A process has ended its cohort."""
        if _RAISED in result:
            self.raised = self.raised or result[_RAISED]
        else:
            self._settle(trial.config["number"], result[_OUTCOMES])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """A process was lost, and Ray Tune starts another."""
        error = self._lost(trial)
        if error is not None:
            logger.warning("the process of a cohort was lost and is replaced: %s", first_line(error))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """A cohort has lost too many processes: each of its students may be the cause, and is tried alone."""
        error = self._lost(trial)
        if error is not None:
            cohort = self._cohorts[trial.config["number"]]
            text = f"{_ATTEMPTS} processes were lost over it: {first_line(error)}"
            self._settle(trial.config["number"], [Outcome(error=text, crowded=len(cohort) > 1) for _ in cohort])

    def _settle(self, number: int, outcomes: Sequence[Outcome]) -> None:
        if number in self.ended or self.raised is not None:
            return
        try:
            self._on_outcomes(number, outcomes)
        except Exception as error:  # Ray Tune would hide it in an exception of its own
            self.raised = error
        else:
            self.ended.add(number)

    def _lost(self, trial: Any) -> RayActorError | None:
        """How the process of a trial was lost; any other failure is the cluster's, and ends the sweep."""
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        if isinstance(error, RayActorError) and not error.actor_init_failed:
            return error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self.raised = self.raised or KdpipeError(f"A node of the Ray cluster cannot train a cohort: {lines[-1]}")
        return None


class _Stopper(tune.Stopper):
    """Ends the trials when something has ended the sweep."""

    def __init__(self, told: _Told) -> None:
        self._told = told

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """No trial by itself."""
        return False

    def stop_all(self) -> bool:
        """See the class."""
        return self._told.raised is not None
