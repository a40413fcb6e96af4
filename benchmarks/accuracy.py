"""Which loss distils well, and when: every loss in the same long-tailed settings, tuned alike, over five seeds.

Usage: python benchmarks/accuracy.py     (make results; RESULTS_SCALE=1 is the small one)

Writes benchmarks/results/accuracy.json and docs/results.md. Every loss is tuned over eight settings on a validation
set, the best is trained with five other seeds, and only these are tested. A comparison that was finished is kept in
RESULTS_FOLDER (default: build/results), so that an interrupted run goes on; one of other settings is made anew.

RESULTS_SCALE  1: glyph100-LT, imbalance 100, teacher of the same data; a residual teacher and a plain student
               2: the oracle teacher too
               3: imbalance 10 and 20, the pair of one family, and Fashion-MNIST-LT at 100
"""

import itertools
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import accuracy_page
import glyph100
import kdpipe
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.sweep import SweepConfig, sweep

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("RESULTS_FOLDER", ROOT / "build" / "results")).absolute()
SCALE = int(os.environ.get("RESULTS_SCALE", "1"))
GLYPHS = FOLDER / "glyph100.npz"
FASHION = Path("/usr/share/datasets/fashion-mnist")
EPOCHS, BATCH_SIZE = 20, 64
TEACHER_LR = 0.008  # AdamW; the better of it and of SGD at 0.2 on validation data of the first setting
TUNING_SEED, SEEDS = 0, (1, 2, 3, 4, 5)
METRICS = ("overall", "head", "medium", "tail")


def alternatives(name: str, **values: Sequence[float]) -> list[str]:
    """All combinations of a loss's options, as specs."""
    return [
        ",".join([name, *(f"{key}={value:g}" for key, value in zip(values, choice, strict=True))])
        for choice in itertools.product(*values.values())
    ]


# Eight settings each. The learning rate is tuned for CE, and serves all losses of a teacher: AdamW's steps do not depend on
# a loss's size, so that a weight only says how much the teacher counts beside the labels (PLD takes their place). With
# SGD a larger weight is a larger learning rate too, and a loss without a weight seems worse than it is.
LEARNING_RATES = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
WITHOUT_TEACHER = {"CE": ["ce"], "balanced softmax": ["balanced-softmax"]}
OF_TEACHER = {
    "KD": alternatives("kd", temperature=(1, 2, 4, 8), weight=(1, 9)),
    # 2 of our 20 epochs are its authors' 20 of 240; all other weights are constant
    "DKD": alternatives("dkd,warmup_epochs=2", temperature=(1, 2, 4, 8), beta=(1, 8)),
    "BKD": alternatives("bkd", temperature=(1, 2, 4, 8), weight=(1, 9)),
    "DIST": alternatives("dist", temperature=(1, 2, 4, 8), weight=(1, 9)),
    "PLD": alternatives("pld", temperature=(0.25, 0.5, 1, 2, 4, 8, 16, 32)),
    "GRKD": alternatives("grkd", tau=(1, 2, 4, 8), weight=(4, 16)),
    "LTKD": alternatives("ltkd", temperature=(1, 2, 4, 8), weight=(1, 9)),
    "LTKD, store's masses": alternatives("ltkd,calibration=store", temperature=(1, 2, 4, 8), weight=(1, 9)),
    "GRKD, rebalanced": alternatives("grkd-rebalanced", temperature=(1, 2, 4, 8), weight=(4, 16)),
    "class-calibrated KD": alternatives("cckd", temperature=(1, 2, 4, 8), weight=(1, 9)),
}
PROTOCOL = {
    "epochs": EPOCHS, "batch size": BATCH_SIZE, "learning rate of teachers": TEACHER_LR, "seeds": list(SEEDS),
    "learning rates": list(LEARNING_RATES), "losses": WITHOUT_TEACHER | OF_TEACHER,
}  # fmt: skip

Choice = tuple[str, float]  # a loss with its options, and the learning rate


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One comparison: data, teacher and student."""

    data: str
    imbalance: int
    teacher: str
    student: str
    precision: Literal["fp32", "bf16"] = "fp32"
    oracle: bool = False

    @property
    def name(self) -> str:
        kind = "oracle" if self.oracle else "biased"
        return f"{self.data}-{self.imbalance}-{kind}-{self.teacher}-{self.student}"

    def spec(self, part: str, *, long_tailed: bool = False) -> str:
        """The data spec of a part."""
        if self.data == "glyph100":
            spec, largest = f"python:glyph100:load,file={GLYPHS},part={part}", 100
        else:
            spec, largest = f"python:accuracy:fashion,part={part}", 1000
        return f"{spec},imbalance={self.imbalance},max_per_class={largest}" if long_tailed else spec


def settings() -> list[Setting]:
    """What is run at the scale asked for."""
    first = Setting(data="glyph100", imbalance=100, teacher="resnet20", student="convnet_tiny")
    chosen = [first]
    if SCALE >= 2:
        chosen.append(replace(first, oracle=True))
    if SCALE >= 3:
        chosen += [replace(first, imbalance=imbalance) for imbalance in (10, 20)]
        chosen += [replace(first, student="resnet8", precision="bf16"), replace(first, data="fashion")]
    return chosen


class fashion:  # noqa: N801 (a factory of the `python:` scheme)
    """Fashion-MNIST: its last 10,000 training images are for validation."""

    def __init__(self, part: str) -> None:
        self.samples = load_data(f"fashion-mnist:{FASHION},split={'test' if part == 'test' else 'train'}")
        self.first, last = {"train": (0, 50_000), "val": (50_000, 60_000), "test": (0, 10_000)}[part]
        self.labels, self.classes = self.samples.labels[self.first : last], self.samples.class_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self.samples.raw(self.first + position), int(self.labels[position])


def prepare(setting: Setting) -> tuple[Path, dict[str, float]]:
    """Train the teacher and extract its store; gives the store and the teacher's test accuracy."""
    train = setting.spec("train", long_tailed=True)
    learned = setting.spec("train") if setting.oracle else train
    kind = "oracle" if setting.oracle else str(setting.imbalance)
    run = FOLDER / f"teacher-{setting.data}-{kind}-{setting.teacher}"
    epochs = 8 if setting.oracle else 40
    trained = distill(
        DistillConfig(
            student=f"kdpipe:{setting.teacher}", data=learned, val=setting.spec("test"), out=run, epochs=epochs,
            batch_size=BATCH_SIZE, optimiser=OptimiserConfig(optimizer="adamw", lr=TEACHER_LR), val_every=epochs,
        )
    )  # fmt: skip
    store = FOLDER / f"{setting.data}-{setting.imbalance}-{kind}.kd"
    extract(
        ExtractConfig(data=train, teacher=f"kdpipe:{setting.teacher},weights={run / 'student.safetensors'}", out=store)
    )
    return store, trained.summary["val"]


def students(
    setting: Setting, store: Path, choices: Sequence[Choice], seeds: Sequence[int], part: str, label: str
) -> dict[tuple[Choice, int], dict[str, float]]:
    """Train students side by side, all losses at all learning rates of these choices; gives accuracies on a part."""
    losses, rates = (list(dict.fromkeys(values)) for values in zip(*choices, strict=True))
    base = DistillConfig(
        student=f"kdpipe:{setting.student}", store=store, data=setting.spec("train", long_tailed=True),
        val=setting.spec(part), out=FOLDER / f"{setting.name}-{label}", epochs=EPOCHS, batch_size=BATCH_SIZE,
        optimiser=OptimiserConfig(optimizer="adamw"), val_every=EPOCHS, precision=setting.precision,
    )  # fmt: skip
    # small networks: a process with one thread for each core is faster than one process with a thread for each
    config = SweepConfig(
        base=base,
        losses=tuple(losses),
        settings={"lr": tuple(map(str, rates))},
        seeds=tuple(seeds),
        engine="ray",
        cpus=1,
    )
    result = sweep(
        config, lambda row: print(base.out.name, row.loss, row.settings, row.seed, row.overall, file=sys.stderr)
    )
    if bad := [row for row in result.rows if row.state not in ("done", "diverged")]:
        sys.exit(f"{bad[0].loss}: {bad[0].error}")
    return {  # 0 where it diverged
        ((row.loss, float(row.settings["lr"])), row.seed): {metric: getattr(row, metric) or 0.0 for metric in METRICS}
        for row in result.rows
    }


def tune(
    setting: Setting, store: Path, losses: dict[str, list[str]], rates: Sequence[float], label: str
) -> dict[str, dict[Choice, float]]:
    """The accuracy on validation data, which is (nearly) balanced, of all choices of each loss."""
    choices = {name: list(itertools.product(specs, rates)) for name, specs in losses.items()}
    found = students(setting, store, list(itertools.chain(*choices.values())), [TUNING_SEED], "val", label)
    return {name: {each: found[each, TUNING_SEED]["overall"] for each in own} for name, own in choices.items()}


def best(validated: dict[Choice, float]) -> Choice:
    """The choice with the highest accuracy; of equal ones the first."""
    return max(validated, key=validated.__getitem__)


def measure(setting: Setting) -> dict[str, Any]:
    """One comparison, as it is written to the JSON file; one that was made by this protocol is kept."""
    kept = FOLDER / f"{setting.name}.json"
    if kept.exists() and (found := json.loads(kept.read_text()))["protocol"] == PROTOCOL:
        return found["record"]
    store, teacher = prepare(setting)
    validated = tune(setting, store, WITHOUT_TEACHER, LEARNING_RATES, "rates")
    _, rate = best(validated["CE"])
    validated |= tune(setting, store, OF_TEACHER, [rate], f"options-{rate:g}")
    chosen = {name: best(found) for name, found in validated.items()}
    tested = {}
    for rate in dict.fromkeys(rate for _, rate in chosen.values()):
        choices = [choice for choice in chosen.values() if choice[1] == rate]
        tested |= students(setting, store, choices, SEEDS, "test", f"test-{rate:g}")
    record = {
        **{key: getattr(setting, key) for key in ("data", "imbalance", "teacher", "student", "precision", "oracle")},
        "samples": len(kdpipe.open_store(store)),
        "teacher accuracy": {metric: teacher[metric] for metric in METRICS},
        "losses": {
            name: {
                "chosen": spelled(chosen[name]),
                "validated": {spelled(each): accuracy for each, accuracy in found.items()},
                "tested": [tested[chosen[name], seed] for seed in SEEDS],
            }
            for name, found in validated.items()
        },
    }
    kept.write_text(json.dumps({"protocol": PROTOCOL, "record": record}))
    return record


def spelled(choice: Choice) -> str:
    """``kd,temperature=2,weight=1, lr 0.032``."""
    loss, rate = choice
    return f"{loss}, lr {rate:g}"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.chdir(Path(__file__).parent)  # where the `python:` factories are
    if not GLYPHS.exists():
        glyph100.build(GLYPHS)
    records = [measure(setting) for setting in settings()]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} processors, {platform.machine()}, {platform.system()}",
        "versions": {"kdpipe": kdpipe.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "protocol": PROTOCOL,
        "settings": records,
    }
    path = ROOT / "benchmarks" / "results" / "accuracy.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    (ROOT / "docs" / "results.md").write_text(accuracy_page.page(document))


if __name__ == "__main__":
    main()
