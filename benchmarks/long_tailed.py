"""The long-tailed data sets of the proofs about views and codecs, and what is trained on them.

RESULTS_FOLDER (default: build/results) keeps what was made, so that an interrupted proof goes on.
"""

import json
import os
import platform
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kdpipe
import numpy as np
import torch
from kdpipe.pipeline import DistillConfig, OptimiserConfig, distill

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("RESULTS_FOLDER", ROOT / "build" / "results")).absolute()
FASHION = "fashion-mnist:/usr/share/datasets/fashion-mnist"
GROUPS = ("overall", "head", "medium", "tail")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set, how its views are drawn, how its logits may be stored, the networks, and how long they are trained."""

    name: str
    train: str
    test: str
    augment: str
    codecs: tuple[str, ...]
    epochs: int = 20
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    teacher: str = "kdpipe:resnet20"
    student: str = "kdpipe:convnet_tiny"
    batch_size: int = 64
    lr: float = 0.05

    def run(self, **settings: Any) -> DistillConfig:
        """A training run in this setting; students of all seeds see the same batches, and are trained side by side."""
        common = {
            "student": self.student, "data": self.train, "epochs": self.epochs, "batch_size": self.batch_size,
            "optimiser": OptimiserConfig(lr=self.lr), "val_every": self.epochs, "data_seed": 0, "workers": 0,
        }  # fmt: skip
        return DistillConfig(**{**common, **settings})

    def trained_teacher(self, out: Path) -> str:
        """Train the teacher on augmented views of the long-tailed data, unless that was done; gives its spec."""
        distill(self.run(student=self.teacher, augment=self.augment, seed=100, out=out))
        return f"{self.teacher},weights={out / 'student.safetensors'}"


def settings(arguments: list[str]) -> list[Setting]:
    """Those that the arguments of a script ask for: ``--quick``, or Fashion-MNIST and GLYPHS.npz where that is given."""
    if "--quick" in arguments:
        return [
            Setting(
                name="digits-LT", train="digits,split=train,imbalance=10", test="digits,split=test", batch_size=32,
                augment="crop-flip,size=8,padding=1,flip=0", codecs=("float16", "topk:2"), epochs=9, seeds=(0, 1),
                teacher="kdpipe:resnet8",
            )
        ]  # fmt: skip
    found = [
        Setting(
            name="Fashion-MNIST-LT", train=f"{FASHION},split=train,imbalance=100,max_per_class=1000",
            test=f"{FASHION},split=test", augment="crop-flip,size=28,padding=2",
            codecs=("float16", "int8", "topk:2"),
        )
    ]  # fmt: skip
    for file in (argument for argument in arguments if argument.endswith(".npz")):
        glyphs = f"python:glyph100:load,file={Path(file).absolute()}"
        found.append(
            Setting(
                name="glyph100-LT", train=f"{glyphs},part=train,imbalance=100,max_per_class=100",
                test=f"{glyphs},part=test", augment="crop-flip,size=32,padding=4,flip=0",
                codecs=("float16", "int8", "topk:5", "topk:10", "topk:50", "factorised"),
            )
        )  # fmt: skip
    return found


def described(setting: Setting) -> dict[str, Any]:
    """The setting, without the folder in which somebody keeps the glyphs."""
    return {name: re.sub("file=[^,]*/", "file=", v) if isinstance(v, str) else v for name, v in asdict(setting).items()}


def measured(what: str, setting: Setting, measure: Callable[[Setting, Path], dict[str, Any]]) -> dict[str, Any]:
    """What is measured in a setting, with the setting; what was measured before is kept."""
    folder = FOLDER / setting.name
    kept = folder / f"{what}.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"setting": described(setting), **measure(setting, folder)}))
    return json.loads(kept.read_text())


def prove(
    what: str,
    arguments: list[str],
    measure: Callable[[Setting, Path], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    publish: Callable[[str], None],
) -> None:
    """Measure in the settings that a script's arguments ask for, print the tables, and with ``--write`` keep them.

    Args:
        what: names the kept results, benchmarks/results/WHAT.json.
        arguments: of the command line.
        measure: gives what is kept, as JSON, from a setting and a folder.
        table: the Markdown of it.
        publish: puts the tables into the docs.
    """
    chosen = settings(arguments)  # paths are the caller's
    os.chdir(Path(__file__).parent)  # where the `python:` factories are
    if "--quick" in arguments:
        with tempfile.TemporaryDirectory() as folder:
            print(table({"setting": described(chosen[0]), **measure(chosen[0], Path(folder))}))
        return
    results = [measured(what, setting, measure) for setting in chosen]
    text = "\n".join(table(result) for result in results)
    print(text)
    if "--write" in arguments:
        (ROOT / "benchmarks" / "results" / f"{what}.json").write_text(document(results))
        publish(text)


def document(results: list[dict[str, Any]]) -> str:
    """What goes to benchmarks/results."""
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} processors, {platform.machine()}, {platform.system()}",
        "versions": {"kdpipe": kdpipe.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return json.dumps({**about, "settings": results}, indent=1) + "\n"


def percent(values: list[float | None]) -> str:
    """Mean and standard deviation over seeds; a group without classes, or a student that diverged, has none."""
    known = [100 * value for value in values if value is not None]
    return f"{np.mean(known):.1f} ± {np.std(known, ddof=1):.1f}" if len(known) == len(values) else "-"
