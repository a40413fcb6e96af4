"""What a store costs a training step, against the same step with labels only; and many students from one store."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import synthetic  # noqa: F401  (registers its data source)
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.hardware import pick_device, pick_precision
from kdpipe.pipeline.inputs import Batch
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.models import create_model
from kdpipe.pipeline.teachers import load_teacher
from kdpipe.pipeline.training.cohort import Cohort
from kdpipe.pipeline.training.failures import Failures
from kdpipe.pipeline.training.trainer import Trainer
from kdpipe.pipeline.training.training_data import TrainingData, lay_out
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import open_store
from measure import ratios, spread, take_turns

BATCH_SIZE = 128
LOSSES = ("kd", "ltkd", "grkd")
TARGETS = {("kd", 100): 1.03, ("kd", 1000): 1.03, ("ltkd", 100): 1.03, ("ltkd", 1000): 1.03,
           ("grkd", 100): 1.03, ("grkd", 1000): 1.25}  # fmt: skip


def make_linear(num_classes: int) -> torch.nn.Module:
    """A factory for ``python:``: a teacher that costs nothing."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, num_classes))


def make_teacher(num_classes: int) -> torch.nn.Module:
    """A factory for ``python:``: resnet32x4 with fresh weights."""
    torch.manual_seed(0)
    return create_model("resnet32x4", num_classes)


STUDENTS = ("resnet18",) if torch.cuda.is_available() else ("resnet8x4", "convnet_tiny")


def run(scale: float = 1.0, students: Sequence[str] = STUDENTS) -> list[dict[str, Any]]:
    """One record for each student and number of classes."""
    return [_steps(student, classes, scale) for student in students for classes in (100, 1000)]


def _steps(student: str, num_classes: int, scale: float) -> dict[str, Any]:
    """Epochs of a few steps, in turns: labels only, and with each loss from the store."""
    num_steps = max(4, int((6 if student == "resnet8x4" else 40) * scale))
    data = f"synthetic:,num={BATCH_SIZE * num_steps},classes={num_classes}"
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "a.kd"
        extract(ExtractConfig(data=data, teacher="python:overhead:make_linear", out=store))
        trainers = {"ce": _trainer(student, data, None, "ce")}
        trainers |= {loss: _trainer(student, data, store, loss) for loss in LOSSES}
        seconds = take_turns({name: _epoch(trainer) for name, trainer in trainers.items()}, max(5, int(7 * scale)))
    return {
        "student": student,
        "classes": num_classes,
        "batch": BATCH_SIZE,
        "ms a step with labels only": spread([1000 * value / num_steps for value in seconds["ce"]]),
        **{f"{loss} / labels only": ratios(seconds, loss, "ce") for loss in LOSSES},
    }


def _epoch(trainer: Trainer) -> Callable[[], object]:
    cohort = Cohort({0: trainer}, Failures())

    def run() -> None:
        cohort.run_epoch()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _trainer(student: str, data: str, store: Path | None, loss: str) -> Trainer:
    config = DistillConfig(student=student, out=Path("unused"), store=store, data=data, loss=(loss,),
                           batch_size=BATCH_SIZE, workers=0)  # fmt: skip
    objective, samples = Objective.parse(config.loss), load_data(data)
    device = pick_device("auto")
    opened = None if store is None else open_store(store)
    laid_out = lay_out(config, opened, samples, Preprocessing(), [objective], device)
    return _train(student, samples.num_classes, laid_out, objective, device)


def _train(student: str, num_classes: int, data: TrainingData, objective: Objective, device: torch.device) -> Trainer:
    torch.manual_seed(0)
    if student == "resnet18":
        from torchvision.models import resnet18

        module: torch.nn.Module = resnet18(num_classes=num_classes)
    else:
        module = create_model(student, num_classes)
    return Trainer(module.to(device), data, objective, OptimiserConfig(lr=0.01), epochs=10**6, device=device,
                   precision=pick_precision("auto", device, on_gpu="bf16"))  # fmt: skip


def students(scale: float = 1.0) -> dict[str, Any]:
    """S students from one store, extraction included, against S students with the live teacher (both measured).

    A student sees the data ``epochs`` times; the break-even is where extraction has paid for itself.
    """
    num, epochs = max(1024, int(2048 * scale)), 3
    data, device = f"synthetic:,num={num},classes=100", pick_device("auto")
    samples = load_data(data)
    teacher = load_teacher("python:overhead:make_teacher", samples, preprocess=None, device=device, precision="fp32")

    def live_targets(batch: Batch) -> dict[str, torch.Tensor]:
        return {"logits": teacher.logits(batch.inputs, 100).clone()}

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "a.kd"
        started = time.perf_counter()
        extract(ExtractConfig(data=data, teacher="python:overhead:make_teacher", out=store, precision="fp32"))
        extraction = time.perf_counter() - started
        stored = _trainer("resnet8x4", data, store, "kd")
        live_data = TrainingData(dataset=stored.data.dataset, sampler=stored.data.sampler,
                                 positions=stored.data.positions, targets=live_targets,
                                 class_groups=stored.data.class_groups)  # fmt: skip
        live = _train("resnet8x4", 100, live_data, stored.objective, device)
        seconds = take_turns({"store": _epoch(stored), "live": _epoch(live)}, 3)
    from_store, with_teacher = (spread(seconds[name])["median"] * epochs for name in ("store", "live"))
    return {
        "teacher": "kdpipe:resnet32x4",
        "student": "kdpipe:resnet8x4",
        "images": num,
        "epochs of a student": epochs,
        "seconds of the extraction": extraction,
        "seconds of a student from the store": from_store,
        "seconds of a student with the live teacher": with_teacher,
        "live / store, extraction included": {
            str(count): count * with_teacher / (extraction + count * from_store) for count in (1, 2, 5, 10)
        },
        "break-even students": extraction / (with_teacher - from_store),
        "break-even epochs of one student": epochs * extraction / (with_teacher - from_store),
    }


if __name__ == "__main__":
    for record in run(0.4):
        print(record)
    print(students(0.25))
