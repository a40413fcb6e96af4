"""What a sweep is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...stores.errors import UsageError, unknown
from ..config import DistillConfig

METRICS = ("overall", "balanced", "head", "medium", "tail")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Everything a sweep is asked for: students x losses x settings x seeds.

    Attributes:
        base: what all trials share; ``out`` is the folder of the sweep.
        students: model specs; by default the base's.
        losses: each an alternative, its parts summed: ``kd,temperature=2 + grkd,weight=0.1``; by default the base's.
        settings: values to try, as text, by the name of an option of ``distill``, or by ``loss.OPTION`` (of every loss
            that has it) or ``loss.NAME.OPTION``.
        seeds: each setting is trained with every one; by default the base's.
        search: ``grid`` tries everything; ``tpe`` lets Optuna's TPE choose ``trials`` of it (extra ``sweep``).
        trials: how many settings ``tpe`` tries, each with every seed.
        prune: ``halving``: at some epochs the worse half of the settings is stopped.
        metric: of the validation, by which settings are ranked.
        cohort: how many students are trained side by side at most; None for what memory allows, or on Ray for as many
            as keep all of the cluster busy.
        engine: ``local``, this process; ``ray``, a Ray cluster, on which several cohorts are trained at once.
        cpus: cores, and threads, of a cohort on Ray; None for the threads of this process, or a GPU's share of a node.

    Raises:
        UsageError: something is empty, given twice or out of range.
    """

    base: DistillConfig
    students: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    search: Literal["grid", "tpe"] = "grid"
    trials: int | None = None
    prune: Literal["halving"] | None = None
    metric: str = "balanced"
    cohort: int | None = None
    engine: Literal["local", "ray"] = "local"
    cpus: int | None = None

    def __post_init__(self) -> None:
        for name, default in (
            ("students", self.base.student), ("losses", " + ".join(self.base.loss)), ("seeds", self.base.seed),
        ):  # fmt: skip
            if not getattr(self, name):
                object.__setattr__(self, name, (default,))
        self._check_values()
        if self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)
        if self.search not in ("grid", "tpe"):
            raise unknown("search", self.search, ("grid", "tpe"))
        if self.prune not in (None, "halving"):
            raise unknown("way to prune", self.prune, ("halving",))
        if (self.search == "tpe") != (self.trials is not None):
            raise UsageError("Give --search tpe and --trials N, to try N settings of the grid, or neither: all of it.")
        if self.engine not in ("local", "ray"):
            raise unknown("engine", self.engine, ("local", "ray"))
        if self.cpus is not None and self.engine != "ray":
            raise UsageError("--cpus is for Ray. Give --engine ray, too.")
        for name in ("trials", "cohort", "cpus"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.base.val is None:
            raise UsageError("A sweep compares students on held-out data. Give --val SPEC.")

    def _check_values(self) -> None:
        given = {"--student": self.students, "--loss": self.losses, "--seeds": self.seeds}
        given |= {f"--set {key}": values for key, values in self.settings.items()}
        for name, values in given.items():
            if not values or not all(str(value).strip() for value in values):
                raise UsageError(f"{name} has an empty value: the grid is empty. Write values between commas.")
            if len(set(values)) < len(values):
                raise UsageError(f"{name} gives a value twice. Give each once.")
