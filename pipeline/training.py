"""The training loop of a student: steps, epochs, validation, checkpoints.

Shapes: B batch, C classes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..stores import Accuracy
from ..stores.errors import KdpipeError
from .accuracy import AccuracyTally
from .hardware import autocast
from .inputs import Batch, InputDataset, load_batches
from .losses import LossInputs, Objective
from .models.weights import first_line
from .optimisation import OptimiserConfig, build_optimizer, build_schedule
from .training_data import TrainingData

logger = logging.getLogger(__name__)


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch so far; kept on the device, so that no step waits for it."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)

    def add(self, losses: dict[str, Tensor], samples: int) -> None:
        """Count a step."""
        self.steps += 1
        self.samples += samples
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros((), device=loss.device)) + loss.detach()

    def means(self) -> dict[str, float]:
        """Mean of every loss over the steps."""
        return {name: float(total) / max(self.steps, 1) for name, total in self.losses.items()}


class Trainer:
    """Trains one student; its whole state can be saved after any step and restored.

    Args:
        student: the network, on ``device``.
        data: its batches.
        objective: what is minimised.
        optimiser: how.
        epochs: passes over the data.
        device: where.
        precision: "fp32", "bf16" or "fp16".
        ema: decay of the weights' moving average, which then is what is validated and saved.
    """

    def __init__(
        self,
        student: nn.Module,
        data: TrainingData,
        objective: Objective,
        optimiser: OptimiserConfig,
        *,
        epochs: int,
        device: torch.device,
        precision: str,
        ema: float | None = None,
    ) -> None:
        self.student, self.data, self.objective = student, data, objective
        self.epochs, self.device, self.precision = epochs, device, precision
        self._clip_grad = optimiser.clip_grad
        self._optimizer = build_optimizer(optimiser, student)
        self._schedule = build_schedule(optimiser, self._optimizer, epochs=epochs, steps_per_epoch=len(data.sampler))
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._average = None
        if ema is not None:
            self._average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
        self._groups = torch.from_numpy(data.class_groups).to(device)
        self._counts = torch.from_numpy(data.class_counts).to(device)
        self._masses = {temperature: mass.to(device) for temperature, mass in data.teacher_mass.items()}
        self.epoch, self.batch = 0, 0
        self.totals = EpochTotals()

    @property
    def module(self) -> nn.Module:
        """The network to validate and save: the average where one is kept."""
        return self.student if self._average is None else self._average.module

    def run_epoch(self, after_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Train to the end of the current epoch; returns the mean losses, learning rate and speed.

        Raises:
            KdpipeError: the loss is no longer finite.
        """
        self.student.train()
        started = time.perf_counter() - self.totals.seconds
        for batch in self.data.epoch(self.epoch, self.batch, pin_memory=self.device.type == "cuda"):
            losses = self._step(batch)
            self.batch += 1
            self.totals.add(losses, len(batch.positions))
            self.totals.seconds = time.perf_counter() - started
            after_step()
        self.check()
        means, lr = self.totals.means(), self.totals.lr
        speed = self.totals.samples / max(self.totals.seconds, 1e-9)
        seconds = self.totals.seconds
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, EpochTotals()
        return {**means, "lr": lr, "seconds": seconds, "images_per_second": speed}

    def check(self) -> None:
        """Raise KdpipeError if the training has diverged: such a state must not become a checkpoint."""
        means = self.totals.means()
        if not all(np.isfinite(value) for value in means.values()):
            raise KdpipeError(
                f"The training diverged in epoch {self.epoch} (losses {means}). "
                "Lower --lr or give --clip-grad 1, with another --out."
            )

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        inputs = batch.inputs.to(self.device, non_blocking=True)
        targets = self.data.targets(batch)
        logits = self._logits(inputs)
        losses = self.objective(
            LossInputs(
                student_logits=logits,
                labels=batch.labels.to(self.device, non_blocking=True),
                class_groups=self._groups,
                class_counts=self._counts,
                temperatures=self.data.temperatures,
                teacher_mass=self._masses,
                epoch=self.epoch,
                **targets,
            )
        )
        self.totals.lr = float(self._optimizer.param_groups[0]["lr"])
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(losses["loss"]).backward()
        if self._clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), self._clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self.student)
        return losses

    def _logits(self, inputs: Tensor) -> Tensor:
        """The student's logits (B, C).

        Raises:
            KdpipeError: the student cannot take these inputs, or gives something else.
        """
        try:
            with autocast(self.precision, self.device):
                logits = self.student(inputs)
        except torch.OutOfMemoryError:
            raise KdpipeError(
                f"The student ran out of memory with batches of {len(inputs)}. Give a smaller --batch-size."
            ) from None
        except Exception as error:  # a network may raise anything when its input does not fit
            raise KdpipeError(
                f"The student cannot take inputs of shape {tuple(inputs.shape)}: {first_line(error)}. Is it made for "
                "images of this size, and batches of this size?"
            ) from error
        wanted = (len(inputs), self.data.dataset.samples.num_classes)
        if not isinstance(logits, Tensor) or logits.shape != wanted:
            given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise KdpipeError(f"The student gives {given} in training, not logits of shape {wanted} (batch, classes).")
        return logits

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": vars(self.totals),
            "student": self.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": {n: getattr(self._schedule, n) for n in ("last_epoch", "_step_count", "_last_lr")},
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.totals = EpochTotals(**state["totals"])
        self.totals.losses = {name: loss.to(self.device) for name, loss in self.totals.losses.items()}
        self.student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict({**self._schedule.state_dict(), **state["schedule"]})
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])


@torch.inference_mode()
def evaluate(
    module: nn.Module,
    dataset: InputDataset,
    class_groups: np.ndarray,
    *,
    batch_size: int,
    device: torch.device,
    precision: str,
    num_workers: int = 0,
) -> Accuracy:
    """The accuracy of a network over a whole data set; every part is left in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    tally = AccuracyTally(dataset.samples.num_classes)
    starts = range(0, len(dataset), batch_size)
    batches = [list(range(start, min(start + batch_size, len(dataset)))) for start in starts]
    for batch in load_batches(dataset, batches, num_workers=num_workers):
        with autocast(precision, device):
            predictions = module(batch.inputs.to(device)).argmax(1)
        tally.add(batch.labels.numpy(), predictions.cpu().numpy())
    for part, training in modes.items():
        part.training = training
    return tally.accuracy(class_groups)
