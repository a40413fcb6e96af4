"""Eight small students side by side against the same eight one after the other, and where the time goes.

Usage: python benchmarks/sweep_cohort.py [--images N] [--epochs N] [--rounds N] [--case jpeg|arrays] [--device D] [--write]

--write puts the tables into docs/sweeps.md.

Two cases: JPEG files of 500 x 375 pixels, as ImageNet's are on average, decoded and randomly cropped to 64 by the views
of a store (target: 0.3 of separate runs on two cores), and arrays of 32 pixels in memory (target: 0.8).

Each is measured twice: as commands (one `kdpipe sweep` against eight `kdpipe distill`), where each run starts a process
and validates once on all images, and within this process, where training is all there is. Rounds take turns; what is told is their ratio.
On a GPU (--device cuda) the eight are also compared with one of them alone (target: 2.5 times as long).
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pages
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.distill import distill_cohort
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.models import create_model
from kdpipe.pipeline.training.trainer import Trainer
from kdpipe.pipeline.training.training_data import TrainingData, lay_out
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import open_store
from PIL import Image

PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"
BENCH = str(Path(__file__).parent / "bench")
sys.path.append(BENCH)
import synthetic  # noqa: E402, F401  (registers its data source)

LOSSES = ("ce", "kd", "grkd", "ltkd")
RATES = (0.05, 0.02)
CLASSES, BATCH_SIZE = 20, 128
TARGETS = {"jpeg": 0.3, "arrays": 0.8}
OF_ONE_ON_GPU = 2.5
NAMES = {"jpeg": "JPEG files, random crops of 64 px", "arrays": "arrays of 32 px"}


def jpeg_store(root: Path, num: int) -> tuple[Path, str]:
    """A folder of photograph-like images, and a store of one view of random crops."""
    generator = np.random.default_rng(0)
    for number in range(num):
        folder = root / "photos" / f"{number % CLASSES:02}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        grain = generator.integers(-12, 13, (375, 500, 3), np.int16)
        pixels = np.clip(np.asarray(coarse, np.int16) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    data = f"folder:{root / 'photos'}"
    return _extract(root, data, augment="rrc-flip,size=64", preprocess="image,channels=3,resize=64,crop=64"), data


def array_store(root: Path, num: int) -> tuple[Path, str]:
    """Images in memory, and a store."""
    data = f"synthetic:,num={num},classes={CLASSES},size=32"
    return _extract(root, data), data


def _extract(root: Path, data: str, **settings: str) -> Path:
    torch.manual_seed(0)
    torch.save(create_model("convnet_tiny", CLASSES, 3).state_dict(), root / "teacher.pt")
    teacher = f"kdpipe:convnet_tiny,weights={root / 'teacher.pt'}"
    extract(ExtractConfig(data=data, teacher=teacher, out=root / "store.kd", **settings))  # pyright: ignore[reportArgumentType]
    return root / "store.kd"


def configs(root: Path, store: Path, data: str, epochs: int, device: str) -> list[DistillConfig]:
    """Eight students: four losses, two learning rates."""
    return [
        DistillConfig(
            student="kdpipe:convnet_tiny", store=store, data=data, loss=(loss,), epochs=epochs, batch_size=BATCH_SIZE, device=device,
            optimiser=OptimiserConfig(lr=lr), out=root / "runs" / f"{loss}-{lr}",
        )
        for loss in LOSSES for lr in RATES
    ]  # fmt: skip


def seconds(run: Callable[[], object], runs: Path) -> float:
    """How long something takes, from nothing."""
    shutil.rmtree(runs, ignore_errors=True)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def separately(students: Sequence[DistillConfig]) -> None:
    for student in students:
        distill(student)


def where_it_goes(students: Sequence[DistillConfig]) -> dict[str, float]:
    """Seconds of an epoch: the data side by itself, and the steps of one student by itself, by loss."""
    store, device = open_store(students[0].store or ""), torch.device(students[0].device)
    samples = load_data(students[0].data or "")
    preprocessing = Preprocessing.from_dict(store.manifest.preprocessing)
    objectives = [Objective.parse(student.loss) for student in students]
    data = lay_out(students[0], store, samples, preprocessing, objectives, device)
    started = time.perf_counter()
    read = (batch.to(device) for batch in data.epoch(0, 0, pin_memory=device.type == "cuda"))
    batches = [(batch, data.targets(batch)) for batch in read]
    found = {"reading, decoding, cropping, gathering": time.perf_counter() - started}
    for student, objective in list(zip(students, objectives, strict=True))[:: len(RATES)]:
        found[f"steps with {student.loss[0]}"] = _steps(data, objective, student, batches)
    return found


def _steps(data: TrainingData, objective: Objective, student: DistillConfig, batches: list) -> float:
    device = torch.device(student.device)
    network = create_model("convnet_tiny", CLASSES, 3).to(device)
    trainer = Trainer(network, data, objective, student.optimiser, epochs=2, device=device, precision="fp32")
    trainer.step(*batches[0])
    _wait(device)
    started = time.perf_counter()
    for batch, targets in batches:
        trainer.step(batch, targets)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def commands(students: Sequence[DistillConfig]) -> None:
    for student in students:
        _kdpipe(
            "distill", student, "--loss", student.loss[0], "--lr", str(student.optimiser.lr), "--out", str(student.out)
        )


def sweep_command(students: Sequence[DistillConfig]) -> None:
    losses = [part for loss in LOSSES for part in ("--loss", loss)]
    rates = ["--set", f"lr={','.join(map(str, RATES))}"]
    _kdpipe("sweep", students[0], *losses, *rates, "--out", str(students[0].out.parent))


def _kdpipe(command: str, student: DistillConfig, *own: str) -> None:
    shared = ["--device", student.device, "--store", str(student.store), "--data", student.data or "", "--student", student.student,
              "--epochs", str(student.epochs), "--batch-size", str(student.batch_size),
              "--val", student.data or "", "--val-every", str(student.epochs)]  # fmt: skip
    script = "import runpy, sys; sys.path.append(sys.argv.pop(1)); import synthetic; runpy.run_module('kdpipe', run_name='__main__')"
    subprocess.run([sys.executable, "-c", script, BENCH, command, *shared, *own], check=True, capture_output=True)


def measure(case: str, num: int, epochs: int, rounds: int, device: str) -> tuple[list[str], list[str]]:
    """Measure a case; gives rows of the table of ratios, and of that of where the time goes."""
    with tempfile.TemporaryDirectory(prefix="sweep-cohort-") as folder:
        root = Path(folder)
        store, data = (jpeg_store if case == "jpeg" else array_store)(root, num)
        students = configs(root, store, data, epochs, device)
        distill(students[-1])  # compiles what is compiled once, and fills the system's cache
        ways = {
            "commands": (lambda: commands(students), lambda: sweep_command(students), TARGETS[case]),
            "one process": (lambda: separately(students), lambda: distill_cohort(students), TARGETS[case]),
        }
        if device != "cpu":
            ways["one process, of one student"] = (
                lambda: distill(students[-1]), lambda: distill_cohort(students), OF_ONE_ON_GPU
            )  # fmt: skip
        rows = []
        for way, (separate, cohort, target) in ways.items():
            times = []
            for number in range(1, rounds + 1):
                times.append((seconds(separate, root / "runs"), seconds(cohort, root / "runs")))
                print(f"{case}, {way}, round {number}: {times[-1][0]:.1f} s, cohort {times[-1][1]:.1f} s", flush=True)
            alone, together = (statistics.median(column) for column in zip(*times, strict=True))
            ratios = [cohort / separate for separate, cohort in times]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append(f"| {NAMES[case]} | {way} | {alone:.1f} | {together:.1f} | {ratio} | {target} |")
        parts = [f"| {NAMES[case]} | {part} | {1000 * took:.0f} |" for part, took in where_it_goes(students).items()]
        return rows, parts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=TARGETS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows, parts = [], []
    for case in [given.case] if given.case else TARGETS:
        more_rows, more_parts = measure(case, given.images, given.epochs, given.rounds, given.device)
        rows, parts = rows + more_rows, parts + more_parts
    where = torch.cuda.get_device_name() if given.device != "cpu" else f"{os.cpu_count()} CPU cores"
    text = "\n".join(
        [
            f"{given.images:,} images, {given.epochs} epochs, batches of {BATCH_SIZE}, `kdpipe:convnet_tiny`; {where} "
            f"({platform.machine()}), torch {torch.__version__}; medians of {given.rounds} rounds.",
            "",
            "| data | eight runs as | separate, s | side by side, s | ratio | target |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "| data | an epoch of one student | ms |",
            "|---|---|---|",
            *parts,
        ]
    )
    print(text)
    if given.write:
        pages.write_part(PAGE, "benchmarks/sweep_cohort.py --write", text)


if __name__ == "__main__":
    main()
