"""Students from one, eight and as many augmented views as epochs, against the live teacher on the same inputs.

Usage: python benchmarks/views.py [--quick] [GLYPHS.npz]

For each data set a teacher is trained with augmentation, a float32 store of E views is extracted, and students of E
epochs are trained from its first 1, 8 and E views, and with the live teacher on the inputs of all E. Prints, and writes to
benchmarks/results/views.json, test accuracies over the seeds, bytes of the stores, and the largest difference of any
weight between the student of E views and that of the live teacher. GLYPHS.npz is what benchmarks/glyph100.py makes;
--quick takes scikit-learn's digits, few epochs and two seeds.
"""

import dataclasses
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.hardware import pick_device
from kdpipe.pipeline.inputs import Batch, InputDataset
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.models import create_model
from kdpipe.pipeline.teachers import Teacher, load_teacher
from kdpipe.pipeline.training.cohort import Cohort
from kdpipe.pipeline.training.failures import Failures
from kdpipe.pipeline.training.trainer import Trainer
from kdpipe.pipeline.training.training_data import lay_out
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import Accuracy, open_store
from torch import Tensor

RESULTS = Path(__file__).parent / "results" / "views.json"
FASHION = "fashion-mnist:/usr/share/datasets/fashion-mnist"
LOSSES = ("kd",)
GROUPS = ("overall", "head", "medium", "tail")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set, how its views are drawn, the networks, and how long they are trained."""

    train: str
    test: str
    augment: str
    epochs: int
    seeds: tuple[int, ...]
    teacher: str = "resnet32x4"
    student: str = "resnet8x4"
    batch_size: int = 64
    lr: float = 0.05


def settings(arguments: list[str]) -> dict[str, Setting]:
    """The data sets by name."""
    if "--quick" in arguments:
        digits = Setting(
            train="digits,split=train,imbalance=10", test="digits,split=test", augment="crop-flip,size=8,padding=1,flip=0",
            epochs=9, seeds=(0, 1), teacher="resnet8x4", student="convnet_tiny", batch_size=32,
        )  # fmt: skip
        return {"digits-LT": digits}
    long = {"epochs": 20, "seeds": (0, 1, 2, 3, 4)}
    found = {
        "Fashion-MNIST-LT": Setting(
            train=f"{FASHION},split=train,imbalance=100,max_per_class=2000", test=f"{FASHION},split=test",
            augment="crop-flip,size=28,padding=2", **long,
        )
    }  # fmt: skip
    for file in (argument for argument in arguments if argument.endswith(".npz")):
        glyphs = f"python:glyph100:load,file={Path(file).absolute()}"
        found["glyph100-LT"] = Setting(
            train=f"{glyphs},part=train,imbalance=100,max_per_class=100", test=f"{glyphs},part=test",
            augment="crop-flip,size=32,padding=4,flip=0", **long,
        )  # fmt: skip
    return found


def make_store(setting: Setting, root: Path) -> tuple[Path, Teacher]:
    """A teacher trained with augmentation, and the float32 store of as many views as there are epochs."""
    distill(
        DistillConfig(
            student=f"kdpipe:{setting.teacher}", data=setting.train, augment=setting.augment, epochs=setting.epochs,
            batch_size=setting.batch_size, optimiser=OptimiserConfig(lr=setting.lr), seed=100, out=root / "teacher",
        )
    )  # fmt: skip
    spec = f"kdpipe:{setting.teacher},weights={root / 'teacher' / 'student.safetensors'}"
    extract(
        ExtractConfig(
            data=setting.train, teacher=spec, augment=setting.augment, views=setting.epochs, codec="float32",
            precision="fp32", out=root / "views.kd",
        )
    )  # fmt: skip
    device = pick_device("auto")
    samples = load_data(setting.train)
    return root / "views.kd", load_teacher(spec, samples, preprocess=None, device=device, precision="fp32")


def train(
    setting: Setting, path: Path, seed: int, views: int, teacher: Teacher | None = None
) -> tuple[Accuracy, dict[str, Tensor]]:
    """A student's accuracy on the test set, and its weights; with a teacher, that one answers in the store's place."""
    store, samples, device = open_store(path), load_data(setting.train), pick_device("auto")
    config = DistillConfig(
        student=f"kdpipe:{setting.student}", data=setting.train, store=path, views=views, epochs=setting.epochs,
        batch_size=setting.batch_size, optimiser=OptimiserConfig(lr=setting.lr), seed=seed, out=Path("unused"),
    )  # fmt: skip
    preprocessing, objective = Preprocessing.from_dict(store.manifest.preprocessing), Objective.parse(LOSSES)
    data = lay_out(config, store, samples, preprocessing, [objective], device)
    if teacher is not None:

        def live(batch: Batch) -> dict[str, Tensor]:
            return {"logits": teacher.logits(batch.inputs, samples.num_classes).clone()}

        data = dataclasses.replace(data, targets=live)
    torch.manual_seed(seed)
    first, _ = data.dataset[0]
    student = create_model(setting.student, samples.num_classes, first.shape[0]).to(device)
    trainer = Trainer(
        student, data, objective, config.optimiser, epochs=setting.epochs, device=device, precision="fp32"
    )
    cohort = Cohort({0: trainer}, failures := Failures())
    while cohort.active:
        cohort.run_epoch()
    tallies = cohort.evaluate(InputDataset(load_data(setting.test), preprocessing), [0], batch_size=512)
    for error in failures.values():
        raise error
    weights = {name: value.detach().cpu().clone() for name, value in student.state_dict().items()}
    return tallies[0].accuracy(store.class_groups), weights


def measure(setting: Setting, root: Path) -> dict[str, Any]:
    """Accuracies by number of views, bytes, and how far the student of E views is from the live teacher's."""
    path, teacher = make_store(setting, root)
    grid, arrays = open_store(path).manifest.grid, open_store(path).manifest.arrays
    view_bytes = sum(array.row_bytes for array in arrays) * grid.num_samples
    kinds = {
        f"{count} view{'s' if count > 1 else ''}": count
        for count in sorted({1, min(8, setting.epochs), setting.epochs})
    }
    accuracies: dict[str, list[dict[str, float]]] = {name: [] for name in (*kinds, "live teacher")}
    differences = []
    for seed in setting.seeds:
        weights: dict[str, Tensor] = {}
        for name, count in kinds.items():
            accuracy, weights = train(setting, path, seed, count)
            accuracies[name].append(asdict(accuracy))
        accuracy, live = train(setting, path, seed, setting.epochs, teacher)
        accuracies["live teacher"].append(asdict(accuracy))
        differences.append(max(float((weights[name].double() - live[name].double()).abs().max()) for name in live))
    megabytes = {name: view_bytes * count / 1e6 for name, count in kinds.items()}
    return {
        "setting": asdict(setting), "accuracy": accuracies, "megabytes": megabytes, "largest_difference": max(differences)
    }  # fmt: skip


def show(name: str, result: dict[str, Any]) -> None:
    print(f"{name}: {result['setting']['epochs']} epochs, {len(result['setting']['seeds'])} seeds\n")
    print("| student from | MB, float32 | " + " | ".join(GROUPS) + " |")
    print("|---|---|" + "---|" * len(GROUPS))
    for kind, runs in result["accuracy"].items():
        cells = []
        for group in GROUPS:
            values = [100 * run[group] for run in runs if run[group] is not None]
            cells.append(f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if values else "-")
        size = result["megabytes"].get(kind)
        print(f"| {kind} | {'-' if size is None else f'{size:,.1f}'} | " + " | ".join(cells) + " |")
    print(f"\nLargest difference of any weight, all views against live: {result['largest_difference']:.1e}\n")


def main(arguments: list[str]) -> None:
    results = {}
    for name, setting in settings(arguments).items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(setting, Path(folder))
        show(name, results[name])
    if "--quick" not in arguments:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
