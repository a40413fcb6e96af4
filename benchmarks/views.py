"""Students from one, eight and as many augmented views as epochs, against the live teacher on the same inputs.

Usage: python benchmarks/views.py [--quick | --write] [GLYPHS.npz]     (make views)

For each data set a teacher is trained with augmentation, a float32 store of E views is extracted, and students of E
epochs are trained from its first 1, 8 and E views, and with the live teacher on the inputs of all E. Prints test
accuracies over the seeds, bytes of the stores, and how far the student of E views is from that of the live teacher;
with --write also into docs/views.md and benchmarks/results/views.json. GLYPHS.npz is what benchmarks/glyph100.py makes;
--quick takes scikit-learn's digits, few epochs and two seeds.
"""

import dataclasses
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import long_tailed
import pages
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.hardware import pick_device
from kdpipe.pipeline.inputs import Batch, InputDataset
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.models import load_model
from kdpipe.pipeline.specs import Spec
from kdpipe.pipeline.teachers import Teacher, load_teacher
from kdpipe.pipeline.training.cohort import Cohort
from kdpipe.pipeline.training.failures import Failures
from kdpipe.pipeline.training.trainer import Trainer
from kdpipe.pipeline.training.training_data import lay_out
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import Accuracy, open_store
from long_tailed import GROUPS, ROOT, Setting
from torch import Tensor

LOSSES = ("kd",)


def make_store(setting: Setting, root: Path) -> tuple[Path, Teacher]:
    """A teacher trained with augmentation, and the float32 store of as many views as there are epochs."""
    spec = setting.trained_teacher(root / "teacher")
    extract(
        ExtractConfig(
            data=setting.train, teacher=spec, augment=setting.augment, views=setting.epochs, codec="float32",
            precision="fp32", write=("logits",), workers=0, out=root / "views.kd",
        )
    )  # fmt: skip
    samples = load_data(setting.train)
    return root / "views.kd", load_teacher(spec, samples, preprocess=None, device=pick_device("auto"), precision="fp32")


def train(
    setting: Setting, path: Path, views: int, teacher: Teacher | None = None
) -> list[tuple[Accuracy, dict[str, Tensor]]]:
    """The students of all seeds: accuracy on the test set, and weights; a teacher answers in the store's place."""
    store, samples, device = open_store(path), load_data(setting.train), pick_device("auto")
    config = setting.run(store=path, views=views, out=Path("unused"))
    preprocessing, objective = Preprocessing.from_dict(store.manifest.preprocessing), Objective.parse(LOSSES)
    data = lay_out(config, store, samples, preprocessing, [objective], device)
    if teacher is not None:

        def live(batch: Batch) -> dict[str, Tensor]:
            return {"logits": teacher.logits(batch.inputs, samples.num_classes).clone()}

        data = dataclasses.replace(data, targets=live)
    trainers = {}
    for seed in setting.seeds:
        torch.manual_seed(seed)
        student = load_model(
            Spec.parse(setting.student),
            num_classes=samples.num_classes,
            in_channels=data.dataset[0][0].shape[0],
            student=True,
        ).module.to(device)
        trainers[seed] = Trainer(
            student, data, objective, config.optimiser, epochs=setting.epochs, device=device, precision="fp32"
        )
    cohort = Cohort(trainers, failures := Failures())
    while cohort.active:
        cohort.run_epoch()
    tallies = cohort.evaluate(InputDataset(load_data(setting.test), preprocessing), setting.seeds, batch_size=512)
    for error in failures.values():
        raise error
    return [
        (
            tallies[seed].accuracy(store.class_groups),
            {name: value.cpu() for name, value in trainer.student.state_dict().items()},
        )
        for seed, trainer in trainers.items()
    ]


def measure(setting: Setting, root: Path) -> dict[str, Any]:
    """Accuracies by number of views, bytes, and how far the students of E views are from the live teacher's."""
    path, teacher = make_store(setting, root)
    manifest = open_store(path).manifest
    row_bytes = sum(array.row_bytes for array in manifest.arrays)
    counts = sorted({1, min(8, setting.epochs), setting.epochs})
    kinds = {f"{count} view{'s' if count > 1 else ''}": count for count in counts}
    students = {name: train(setting, path, count) for name, count in kinds.items()}
    students["live teacher"] = train(setting, path, setting.epochs, teacher)
    stored, live = ([weights for _, weights in students[name]] for name in (list(kinds)[-1], "live teacher"))
    return {
        "samples": manifest.num_samples,
        "accuracy": {name: [asdict(accuracy) for accuracy, _ in found] for name, found in students.items()},
        "megabytes": {name: row_bytes * manifest.num_samples * count / 1e6 for name, count in kinds.items()},
        "largest_difference": max(map(largest_difference, stored, live)),
        "largest_weight": max(float(value.abs().max()) for value in live[0].values() if value.is_floating_point()),
    }


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of any two weights, in absolute value."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def table(result: dict[str, Any]) -> str:
    setting = result["setting"]
    lines = [
        f"**{setting['name']}**: {result['samples']:,} samples, {setting['epochs']} epochs, `{setting['augment']}`, "
        f"{setting['teacher'].partition(':')[2]} teaches {setting['student'].partition(':')[2]} (`kd`), "
        f"{len(setting['seeds'])} seeds.",
        "",
        "| student from | MB, float32 | " + " | ".join(GROUPS) + " |",
        "|---|---|" + "---|" * len(GROUPS),
    ]
    for kind, runs in result["accuracy"].items():
        size = f"{result['megabytes'][kind]:,.1f}" if kind in result["megabytes"] else "-"
        cells = [long_tailed.percent([run[group] for run in runs]) for group in GROUPS]
        lines.append(f"| {kind} | {size} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Largest difference of any weight, {setting['epochs']} views against the live teacher, over the seeds: "
        f"{result['largest_difference']:.1e} (largest weight: {result['largest_weight']:.2f}).",
        "",
    ]
    return "\n".join(lines)


def publish(text: str) -> None:
    pages.write_part(ROOT / "docs" / "views.md", "benchmarks/views.py --write", text)


if __name__ == "__main__":
    long_tailed.prove("views", sys.argv[1:], measure, table, publish)
