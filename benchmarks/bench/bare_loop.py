"""Extraction against a bare loop: the same teacher over the same batches, its logits thrown away."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import synthetic  # noqa: F401  (registers its data source)
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.hardware import pick_device, pick_precision
from kdpipe.pipeline.inputs import InputDataset, load_batches
from kdpipe.pipeline.teachers import load_teacher
from measure import ratios, spread, take_turns

BATCH_SIZE = 128


def make_teacher(num_classes: int, name: str) -> torch.nn.Module:
    """A factory for ``python:``: a network with fresh weights that are the same every time."""
    from kdpipe.pipeline.models import create_model

    torch.manual_seed(0)
    return create_model(name, num_classes)


def run(scale: float = 1.0) -> list[dict[str, Any]]:
    """A teacher as small as a student, to make kdpipe's part as large as can be, and one of a teacher's size."""
    device = pick_device("auto")
    cases = [("resnet8x4", 100, 8192), ("resnet8x4", 1000, 8192), ("resnet32x4", 1000, 2048)]
    return [_measure(name, classes, max(1024, int(num * scale)), device) for name, classes, num in cases]


def _measure(name: str, num_classes: int, num: int, device: torch.device) -> dict[str, Any]:
    data, teacher_spec = f"synthetic:,num={num},classes={num_classes}", f"python:bare_loop:make_teacher,name={name}"
    precision = pick_precision("auto", device, on_gpu="fp16")
    samples = load_data(data)
    teacher = load_teacher(teacher_spec, samples, preprocess=None, device=device, precision=precision)
    dataset = InputDataset(samples, teacher.preprocessing)
    starts = range(0, num, BATCH_SIZE)
    batches = [list(range(start, min(start + BATCH_SIZE, num))) for start in starts]

    def bare() -> None:
        with torch.inference_mode():
            for batch in load_batches(dataset, batches, num_workers=0):
                teacher.module(batch.inputs.to(device))
        if device.type == "cuda":
            torch.cuda.synchronize()

    with tempfile.TemporaryDirectory(prefix="kdpipe-bench-") as folder:
        out = Path(folder) / "a.kd"

        def kdpipe() -> None:
            shutil.rmtree(out, ignore_errors=True)
            extract(ExtractConfig(data=data, teacher=teacher_spec, out=out, batch_size=BATCH_SIZE, workers=0))

        seconds = take_turns({"bare loop": bare, "kdpipe extract": kdpipe}, 3)
    return {
        "classes": num_classes,
        "images": num,
        "teacher": f"kdpipe:{name}, 32 px",
        "device": device.type,
        "seconds of the bare loop": spread(seconds["bare loop"]),
        "extract / bare loop": ratios(seconds, "kdpipe extract", "bare loop"),
    }


if __name__ == "__main__":
    for record in run(0.5):
        print(record)
