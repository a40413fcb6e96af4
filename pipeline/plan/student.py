"""A student's training step, timed with the teacher's logits at hand and with the teacher live.

Shapes: B batch, C classes.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ...stores.errors import KdpipeError
from ..extract import Loaded
from ..hardware import autocast, pick_precision
from ..losses import kd
from ..models import load_model
from ..models.weights import first_line
from ..specs import Spec
from ..teachers import num_channels
from ..tensors import Inputs, call, shape_text
from .records import StudentTimes

_WARM_UP_STEPS = 3
_STEPS = 20
_MAX_SECONDS = 5.0


def measure_student(spec: str, loaded: Loaded, positions: np.ndarray, *, epochs: int) -> StudentTimes:
    """Time a student's steps.

    Args:
        spec: of the student.
        loaded: data and teacher.
        positions: (B,) of a batch.
        epochs: of a training run.

    Raises:
        KdpipeError: the student cannot be loaded, or cannot take these inputs.
    """
    device = loaded.teacher.device
    batch = loaded.inputs.batch(positions).to(device)
    student = load_student(spec, loaded).to(device).train()
    step = _Step(student, pick_precision("auto", device, on_gpu="bf16"), device)
    targets = _teacher_logits(loaded, batch.inputs)
    try:
        alone = _step_seconds(lambda: step(batch.inputs, targets), device)
        live = _step_seconds(lambda: step(batch.inputs, _teacher_logits(loaded, batch.inputs)), device)
    except KdpipeError:
        raise
    except Exception as error:  # a network may raise anything when its input does not fit
        shape = shape_text(batch.inputs)
        raise KdpipeError(f"the student '{spec}' cannot take inputs of shape {shape}: {first_line(error)}.") from error
    size = len(batch.positions)
    return StudentTimes(
        student=spec,
        batch_size=size,
        seconds_per_sample=alone / size,
        live_seconds_per_sample=live / size,
        epochs=epochs,
    )


def load_student(spec: str, loaded: Loaded) -> nn.Module:
    """The network that a spec names, for these data.

    Raises:
        KdpipeError: it cannot be loaded.
    """
    teacher, samples = loaded.teacher, loaded.inputs.samples
    channels = num_channels(samples, teacher.preprocessing)
    return load_model(
        Spec.parse(spec), num_classes=samples.num_classes, in_channels=channels, student=True, device=teacher.device
    ).module


class _Step:
    """Forward, KD loss, backward, update."""

    def __init__(self, student: nn.Module, precision: str, device: torch.device) -> None:
        self._student, self._precision, self._device = student, precision, device
        self._optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, inputs: Inputs, targets: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._precision, self._device):
            logits = call(self._student, inputs)
        kd(logits.float(), targets).backward()
        self._optimizer.step()


def _teacher_logits(loaded: Loaded, inputs: Inputs) -> Tensor:
    """(B, C), as a tensor that gradients may be taken around."""
    return loaded.teacher.logits(inputs, loaded.inputs.samples.num_classes).clone()


def _step_seconds(step: Callable[[], None], device: torch.device) -> float:
    """The median of some steps, after a few that are not counted."""
    times: list[float] = []
    deadline = time.perf_counter() + _MAX_SECONDS
    while len(times) < _WARM_UP_STEPS + 2 or (len(times) < _STEPS and time.perf_counter() < deadline):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[_WARM_UP_STEPS:])
