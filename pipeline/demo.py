"""The whole story on embedded data: a biased teacher, its store, and students of four losses.

Nothing here is tuned: the settings were chosen once for speed, and the test split is only looked at in the table.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..stores import RefusedError
from .config import DistillConfig, ExtractConfig
from .distill import distill
from .extract import extract
from .training.optimisation import OptimiserConfig

TRAIN = "digits,split=train,imbalance=30"
TEST = "digits,split=test"
TEACHER = "kdpipe:resnet8x4"
STUDENT = "kdpipe:convnet_tiny"
LOSSES = ("ce", "kd", "grkd", "ltkd")
SEEDS = (0, 1, 2)
_SETTINGS = {"val": TEST, "val_every": 40, "epochs": 40, "batch_size": 64}
_LR = 0.05
_GROUPS = ("overall", "head", "medium", "tail")


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One line of the demo's table: mean and standard deviation over the seeds, in percent, by group."""

    name: str
    mean: dict[str, float]
    spread: dict[str, float]


def demo(out: Path, say: Callable[[str], None] = lambda _: None) -> list[DemoRow]:
    """Train a teacher on long-tailed digits, extract it, and train students with CE, KD, GRKD and LTKD.

    Args:
        out: folder for the teacher, the store and the runs.
        say: called with each step, as the command that does the same.

    Returns:
        The teacher's line, then one for each loss.

    Raises:
        RefusedError: the folder holds something else.
    """
    teacher_run, store = out / "teacher", out / "digits.kd"
    runs = {loss: [out / f"{loss}-{seed}" for seed in SEEDS] for loss in LOSSES}
    _check_ours(out, [teacher_run, store, *itertools.chain.from_iterable(runs.values())])
    teacher_config = _config(student=TEACHER, out=teacher_run, data=TRAIN, epochs=20)
    say(_command(teacher_config))
    teacher = distill(teacher_config)
    weights = f"{TEACHER},weights={teacher_run / 'student.safetensors'}"
    say(f"kdpipe extract --data {TRAIN} --teacher {weights} --out {store}")
    extract(ExtractConfig(data=TRAIN, teacher=weights, out=store))
    rows = [_row("teacher (biased)", [teacher.summary])]
    for loss in LOSSES:
        configs = [
            _config(student=STUDENT, store=store, loss=(loss,), seed=seed, out=run)
            for seed, run in zip(SEEDS, runs[loss], strict=True)
        ]
        say(f"{_command(configs[0])}  # and {len(SEEDS) - 1} more seeds")
        rows.append(_row(loss, [distill(config).summary for config in configs]))
    return rows


def _check_ours(out: Path, ours: Sequence[Path]) -> None:
    """Raise RefusedError where a folder holds anything but these."""
    if out.exists() and (not out.is_dir() or any(path not in ours for path in out.iterdir())):
        raise RefusedError(f"{out} exists and is not the folder of a demo. Choose another --out.")


def _config(**settings: Any) -> DistillConfig:
    return DistillConfig(**{**_SETTINGS, **settings}, optimiser=OptimiserConfig(lr=_LR))


def _command(config: DistillConfig) -> str:
    """The command line that does the same."""
    source = f"--data {config.data}" if config.store is None else f"--store {config.store}"
    return (
        f"kdpipe distill {source} --student {config.student} --loss {config.loss[0]} --val {config.val} "
        f"--val-every {config.val_every} --epochs {config.epochs} --batch-size {config.batch_size} "
        f"--lr {config.optimiser.lr} --seed {config.seed} --out {config.out}"
    )


def _row(name: str, runs: list[dict[str, Any]]) -> DemoRow:
    values = {group: 100 * np.array([run["val"][group] for run in runs]) for group in _GROUPS}
    return DemoRow(
        name=name,
        mean={group: float(value.mean()) for group, value in values.items()},
        spread={group: float(value.std()) for group, value in values.items()},
    )
