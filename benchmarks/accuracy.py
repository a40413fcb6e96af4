"""Which loss distils well, and when: every loss in the same long-tailed settings, tuned alike, over five seeds.

Usage: python benchmarks/accuracy.py     (make results; RESULTS_SCALE=1 is the small one)

Writes benchmarks/results/accuracy.json and docs/results.md. Every loss gets the same eight settings' worth of tuning on a
validation set, the best is trained with five other seeds, and only these are tested. A setting that was finished is kept
in RESULTS_FOLDER (default: build/results), so that an interrupted run goes on.

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
from typing import Any

import accuracy_page
import glyph100
import kdpipe
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.sweep import Row, SweepConfig, sweep

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("RESULTS_FOLDER", ROOT / "build" / "results")).absolute()
SCALE = int(os.environ.get("RESULTS_SCALE", "1"))
GLYPHS = FOLDER / "glyph100.npz"
FASHION = Path("/usr/share/datasets/fashion-mnist")
EPOCHS, BATCH_SIZE, LR = 20, 64, 0.05
TUNING_SEED, SEEDS = 0, (1, 2, 3, 4, 5)
METRICS = ("overall", "head", "medium", "tail")


def alternatives(name: str, **values: Sequence[float]) -> list[str]:
    """All combinations of a loss's options, as specs."""
    return [
        ",".join([name, *(f"{key}={value:g}" for key, value in zip(values, choice, strict=True))])
        for choice in itertools.product(*values.values())
    ]


# eight settings each. Losses differ in size (the mean over pairs of GRKD is small), so each has its own range of weights:
# about what is best on validation data (seed 0). The weight of a lone loss scales the learning rate.
LOSSES = {
    "CE": alternatives("ce", weight=(0.25, 0.5, 1, 2, 4, 8, 16, 32)),
    "balanced softmax": alternatives("balanced-softmax", weight=(0.25, 0.5, 1, 2, 4, 8, 16, 32)),
    "KD": alternatives("kd", temperature=(2, 4), weight=(1, 9, 36, 144)),
    "DKD": alternatives("dkd", temperature=(2, 4), beta=(8, 32, 128, 512)),
    "BKD": alternatives("bkd", temperature=(2, 4), weight=(1, 9, 36, 144)),
    "DIST": alternatives("dist", temperature=(1, 4), weight=(1, 4, 16, 64)),
    "PLD": alternatives("pld", temperature=(1, 4), weight=(4, 16, 64, 256)),
    "GRKD": alternatives("grkd", tau=(1, 4), weight=(9, 36, 144, 576)),
    "LTKD": alternatives("ltkd", temperature=(2, 4), weight=(0.5, 2, 8, 32)),
    "LTKD, store's masses": alternatives("ltkd,calibration=store", temperature=(2, 4), weight=(0.5, 2, 8, 32)),
    "GRKD, rebalanced": alternatives("grkd-rebalanced", temperature=(1, 4), weight=(9, 36, 144, 576)),
    "class-calibrated KD": alternatives("cckd", temperature=(2, 4), weight=(1, 9, 36, 144)),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One comparison: data, teacher and student."""

    data: str
    imbalance: int
    teacher: str
    student: str
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
        chosen += [replace(first, student="resnet8"), replace(first, data="fashion")]
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
            batch_size=BATCH_SIZE, optimiser=OptimiserConfig(lr=LR), val_every=epochs,
        )
    )  # fmt: skip
    store = FOLDER / f"{setting.data}-{setting.imbalance}-{kind}.kd"
    extract(
        ExtractConfig(data=train, teacher=f"kdpipe:{setting.teacher},weights={run / 'student.safetensors'}", out=store)
    )
    return store, trained.summary["val"]


def students(setting: Setting, store: Path, losses: Sequence[str], seeds: Sequence[int], part: str) -> list[Row]:
    """Train students side by side; gives their accuracies on a part of the data."""
    base = DistillConfig(
        student=f"kdpipe:{setting.student}", store=store, data=setting.spec("train", long_tailed=True),
        val=setting.spec(part), out=FOLDER / f"{setting.name}-{part}", epochs=EPOCHS, batch_size=BATCH_SIZE,
        optimiser=OptimiserConfig(lr=LR), val_every=EPOCHS,
    )  # fmt: skip
    # small networks: a process with one thread for each core is faster than one process with a thread for each
    config = SweepConfig(base=base, losses=tuple(losses), seeds=tuple(seeds), engine="ray", cpus=1)
    result = sweep(config, progress(setting.name, part))
    if bad := [row for row in result.rows if row.state not in ("done", "diverged")]:
        sys.exit(f"{bad[0].loss}: {bad[0].error}")
    return result.rows


def progress(name: str, part: str) -> Any:
    """Says on stderr which student is done."""
    return lambda row: print(f"{name} {part}: {row.loss}, seed {row.seed}: {row.overall}", file=sys.stderr, flush=True)


def measure(setting: Setting) -> dict[str, Any]:
    """One comparison, as it is written to the JSON file; one that was made is kept."""
    kept = FOLDER / f"{setting.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    store, teacher = prepare(setting)
    tuned = students(setting, store, list(itertools.chain(*LOSSES.values())), [TUNING_SEED], "val")
    validated = {row.loss: row.balanced or 0.0 for row in tuned}  # 0 where it diverged
    best = {name: max(specs, key=validated.__getitem__) for name, specs in LOSSES.items()}
    tested = students(setting, store, list(best.values()), SEEDS, "test")
    found = {(row.loss, row.seed): {metric: getattr(row, metric) for metric in METRICS} for row in tested}
    record = {
        **{key: getattr(setting, key) for key in ("data", "imbalance", "teacher", "student", "oracle")},
        "samples": len(kdpipe.open_store(store)),
        "teacher accuracy": {metric: teacher[metric] for metric in METRICS},
        "losses": {
            name: {
                "chosen": spec,
                "validated": {each: validated[each] for each in LOSSES[name]},
                "tested": [found[spec, seed] for seed in SEEDS],
            }
            for name, spec in best.items()
        },
    }
    kept.write_text(json.dumps(record))
    return record


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
        "epochs": EPOCHS,
        "batch size": BATCH_SIZE,
        "learning rate": LR,
        "seeds": SEEDS,
        "settings": records,
    }
    path = ROOT / "benchmarks" / "results" / "accuracy.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    (ROOT / "docs" / "results.md").write_text(accuracy_page.page(document))


if __name__ == "__main__":
    main()
