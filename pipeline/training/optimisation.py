"""Optimizers and learning-rate schedules, by name."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ...stores.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How a student's weights are moved.

    Attributes:
        optimizer: ``sgd`` (with Nesterov momentum) or ``adamw``.
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: L2 for SGD, decoupled for AdamW.
        schedule: of the learning rate after warm-up: ``cosine`` to 0, ``step`` or ``constant``.
        milestones: epochs after which ``step`` multiplies by ``gamma``; by default 60, 80 and 90 % of the run.
        gamma: factor of ``step``.
        warmup_epochs: epochs of linear warm-up, may be a fraction.
        clip_grad: largest norm of the gradient; none by default.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    clip_grad: float | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "gamma"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise UsageError(f"--{name} is {value}; it must be above 0.")
        for name in ("momentum", "weight_decay", "warmup_epochs"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be 0 or above.")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise UsageError(f"--clip-grad is {self.clip_grad}; it must be above 0.")
        if self.milestones and self.schedule != "step":
            raise UsageError("--milestones go with --schedule step.")


def build_optimizer(config: OptimiserConfig, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over all parameters; biases and normalisation scales are decayed as the others are."""
    parameters = module.parameters()
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )


def build_schedule(
    config: OptimiserConfig, optimizer: torch.optim.Optimizer, *, epochs: int, steps_per_epoch: int
) -> LambdaLR:
    """The schedule, to be stepped after every optimizer step."""
    total = epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch
    ends = config.milestones or tuple(round(epochs * part) for part in (0.6, 0.8, 0.9))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
        if config.schedule == "step":
            return config.gamma ** sum(step >= end * steps_per_epoch for end in ends)
        return 1.0

    return LambdaLR(optimizer, factor)
