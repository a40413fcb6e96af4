"""The whole story on embedded data: a biased teacher, its store, and students of four losses.

Nothing here is tuned: the settings were chosen once for speed, and the test split is only looked at in the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .distill import DistillConfig, distill
from .extract import ExtractConfig, extract
from .optimisation import OptimiserConfig

TRAIN = "digits,split=train,imbalance=30"
TEST = "digits,split=test"
STUDENT = "kdpipe:convnet_tiny"
LOSSES = ("ce", "kd", "grkd", "ltkd")
SEEDS = (0, 1, 2)
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
    """
    teacher_run, store = out / "teacher", out / "digits.kd"
    say(f"kdpipe distill --data {TRAIN} --student kdpipe:resnet8x4 --loss ce --out {teacher_run} --val {TEST}")
    teacher = distill(_config(student="kdpipe:resnet8x4", out=teacher_run, data=TRAIN, epochs=20))
    weights = f"kdpipe:resnet8x4,weights={teacher_run / 'student.safetensors'}"
    say(f"kdpipe extract --data {TRAIN} --teacher {weights} --out {store}")
    extract(ExtractConfig(data=TRAIN, teacher=weights, out=store))
    rows = [_row("teacher (biased)", [teacher])]
    for loss in LOSSES:
        say(f"kdpipe distill --store {store} --student {STUDENT} --loss {loss} --val {TEST}  # {len(SEEDS)} seeds")
        runs = [
            distill(_config(student=STUDENT, store=store, loss=(loss,), seed=seed, out=out / f"{loss}-{seed}"))
            for seed in SEEDS
        ]
        rows.append(_row(loss, runs))
    return rows


def _config(**settings: Any) -> DistillConfig:  # noqa: ANN401
    optimiser = OptimiserConfig(lr=0.05)
    return DistillConfig(
        **{"val": TEST, "val_every": 1000, "epochs": 40, "batch_size": 64, **settings}, optimiser=optimiser
    )


def _row(name: str, runs: list[dict[str, Any]]) -> DemoRow:
    values = {group: 100 * np.array([run["val"][group] for run in runs]) for group in _GROUPS}
    return DemoRow(
        name=name,
        mean={group: float(value.mean()) for group, value in values.items()},
        spread={group: float(value.std()) for group, value in values.items()},
    )
