"""One student in training: its steps, what an epoch sums up to, and the state a checkpoint keeps.

Batches come from :class:`~kdpipe.pipeline.training.cohort.Cohort`, which feeds one student or several.

Shapes: B batch, C classes.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...stores.errors import DeviceMemoryError, DivergedError, KdpipeError
from ..hardware import autocast
from ..inputs import Batch
from ..losses import LossInputs, Objective
from ..tensors import Inputs, call, num_rows, unfit
from .optimisation import OptimiserConfig, build_optimizer, build_schedule
from .parallel import gather_rows, replicate, share_buffers
from .randomness import RandomSequence
from .training_data import TrainingData


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

    Its random numbers are its own: they begin where torch's generators stand when it is made, so seed these first.

    Args:
        student: the network, on ``device``.
        data: its batches.
        objective: what is minimised.
        optimiser: how.
        epochs: passes over the data.
        device: where.
        precision: "fp32", "bf16" or "fp16".
        ema: decay of the weights' moving average, which then is what is validated and saved.
        hidden: targets that are there for other students and must not reach this one's losses.
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
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        self.data, self.objective, self._ranks = data, objective, data.ranks
        self.student, self._network = (student, student) if self._ranks.alone else replicate(student, device)
        self.epochs, self.device, self.precision = epochs, device, precision
        self._hidden = hidden
        self._clip_grad = optimiser.clip_grad
        self._optimizer = build_optimizer(optimiser, self.student)
        self._schedule = build_schedule(optimiser, self._optimizer, epochs=epochs, steps_per_epoch=len(data.sampler))
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._average = None
        if ema is not None:
            self._average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
        self._groups = torch.from_numpy(data.class_groups).to(device)
        self._counts = torch.from_numpy(data.class_counts).to(device)
        self._masses = {temperature: mass.to(device) for temperature, mass in data.teacher_mass.items()}
        self._random = RandomSequence(device)
        self._random.diverge(self._ranks.rank)
        self.epoch, self.batch = 0, 0
        self.totals = EpochTotals()

    @property
    def module(self) -> nn.Module:
        """The network to validate and save: the average where one is kept."""
        return self.student if self._average is None else self._average.module

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, and the batch in it, that comes next."""
        return self.epoch, self.batch

    def step(self, batch: Batch, targets: dict[str, Tensor], *, shared_seconds: float = 0.0) -> None:
        """Train on a batch.

        Args:
            batch: the next one, on the device.
            targets: what the teacher says of it.
            shared_seconds: this student's share of the time that reading the batch took.

        Raises:
            KdpipeError: the student cannot take these inputs, or gives no logits.
            DeviceMemoryError: it needs more memory than there is.
        """
        started = time.perf_counter()
        try:
            with self._random.drawn():
                losses, samples = self._step(batch, {n: t for n, t in targets.items() if n not in self._hidden})
        except torch.OutOfMemoryError:
            raise DeviceMemoryError(
                f"The student ran out of memory with batches of {len(batch.positions)}. Give a smaller --batch-size."
            ) from None
        self.batch += 1
        self.totals.add(losses, samples)
        self.totals.seconds += shared_seconds + time.perf_counter() - started

    def end_epoch(self) -> dict[str, float]:
        """Go on to the next epoch; returns the mean losses, learning rate and speed of this one.

        Raises:
            DivergedError: the loss is no longer finite.
        """
        self.check()
        totals = self.totals
        if not self._ranks.alone:
            share_buffers(self.module)
        speed = totals.samples / max(totals.seconds, 1e-9)
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, EpochTotals()
        return {**totals.means(), "lr": totals.lr, "seconds": totals.seconds, "images_per_second": speed}

    def check(self) -> None:
        """Raise DivergedError if the training has diverged: such a state must not become a checkpoint."""
        if not all(np.isfinite(value) for value in self.totals.means().values()):
            raise DivergedError(
                f"The training diverged in epoch {self.epoch + 1}: the loss is no longer finite. "
                "Lower --lr or give --clip-grad 1, with another --out; if it does at once, look for NaN in the inputs."
            )

    def predict(self, inputs: Inputs) -> Tensor:
        """The classes (B,) that the network to validate gives; call it in evaluation mode. Moves nothing on."""
        with self._random.drawn(go_on=False), autocast(self.precision, self.device):
            return call(self.module, inputs).argmax(1)

    def _step(self, batch: Batch, targets: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        """The losses of a batch, of which this process may have a share only, and B."""
        labels = {} if "mixed_labels" in targets else {"labels": batch.labels}
        whole = {"student_logits": self._logits(batch.inputs), **labels, **targets}
        if not self._ranks.alone:
            size = self.data.sampler.batch_size
            whole = {n: gather_rows(share, self._ranks, size) for n, share in whole.items()}
        losses = self.objective(
            LossInputs(
                class_groups=self._groups,
                class_counts=self._counts,
                temperatures=self.data.temperatures,
                teacher_mass=self._masses,
                epoch=self.epoch,
                **whole,
            )
        )
        self.totals.lr = float(self._optimizer.param_groups[0]["lr"])
        self._optimizer.zero_grad(set_to_none=True)
        # DDP takes the mean over processes of gradients that add up to that of the batch
        self._scaler.scale(self._ranks.world_size * losses["loss"]).backward()
        if self._clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), self._clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self.student)
        return losses, len(whole["student_logits"])

    def _logits(self, inputs: Inputs) -> Tensor:
        """The student's logits (B, C).

        Raises:
            KdpipeError: the student cannot take these inputs, or gives something else.
        """
        try:
            with autocast(self.precision, self.device):
                logits = call(self._network, inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a network may raise anything when its input does not fit
            raise unfit(
                "The student", inputs, error, "Is it made for images of this size, and batches of this size?"
            ) from error
        wanted = (num_rows(inputs), self.data.dataset.samples.num_classes)
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
            "random": self._random.state,
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
        self._random.state = list(state["random"])
        self._random.diverge(self._ranks.rank)
