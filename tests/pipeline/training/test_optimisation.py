"""Learning rates over a run, the optimizers by name, and settings that are refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.training.optimisation import OptimiserConfig, build_optimizer, build_schedule
from kdpipe.stores.errors import UsageError
from torch import nn


def rates(config: OptimiserConfig, epochs: int, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = build_optimizer(config, nn.Linear(2, 2))
    schedule = build_schedule(config, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)
    seen = []
    for _ in range(epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_cosine_falls_from_the_peak_to_nothing() -> None:
    lr = rates(OptimiserConfig(lr=0.4), 4, 5)
    assert lr[0] == 0.4
    assert lr[10] == pytest.approx(0.2)
    assert lr[5] == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert lr[19] < 0.004
    assert lr[20] == pytest.approx(0, abs=1e-12)
    assert lr == sorted(lr, reverse=True)


def test_warm_up_rises_linearly_and_then_meets_the_peak() -> None:
    lr = rates(OptimiserConfig(lr=1.0, warmup_epochs=0.8), 3, 5)
    assert lr[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert lr[5:] == sorted(lr[5:], reverse=True)
    assert rates(OptimiserConfig(lr=1.0, schedule="constant", warmup_epochs=1), 2, 4)[4:] == [1.0] * 5


@given(st.integers(1, 5), st.integers(1, 6), st.floats(0, 8), st.sampled_from(["cosine", "step", "constant"]))
def test_the_rate_never_leaves_zero_to_peak(epochs: int, steps: int, warmup: float, schedule: str) -> None:
    config = OptimiserConfig(lr=0.3, warmup_epochs=warmup, schedule=schedule)  # pyright: ignore[reportArgumentType]
    assert all(-1e-12 <= lr <= 0.3 + 1e-12 for lr in rates(config, epochs, steps))


def test_steps_fall_after_their_milestones() -> None:
    lr = rates(OptimiserConfig(lr=1.0, schedule="step", milestones=(2, 3), gamma=0.1), 4, 3)
    assert lr[:-1] == pytest.approx([1.0] * 6 + [0.1] * 3 + [0.01] * 3)
    default = rates(OptimiserConfig(lr=1.0, schedule="step", gamma=0.5), 10, 2)
    assert default[:-1] == pytest.approx([1.0] * 12 + [0.5] * 4 + [0.25] * 2 + [0.125] * 2)


def test_the_optimizers_take_their_settings() -> None:
    module = nn.Linear(2, 2)
    sgd = build_optimizer(OptimiserConfig(lr=0.2, momentum=0.8, weight_decay=0.01), module)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.2, 0.8, 0.01, True)
    assert len(group["params"]) == 2, "biases too"
    assert not build_optimizer(OptimiserConfig(momentum=0.0), module).param_groups[0]["nesterov"]
    adamw = build_optimizer(OptimiserConfig(optimizer="adamw", lr=1e-3, weight_decay=0.02), module)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["weight_decay"] == 0.02


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"lr": 0.0}, "--lr"),
        ({"lr": math.nan}, "--lr"),
        ({"lr": math.inf}, "--lr"),
        ({"gamma": -1.0}, "--gamma"),
        ({"momentum": -0.1}, "--momentum"),
        ({"weight_decay": -1e-4}, "--weight-decay"),
        ({"warmup_epochs": -1.0}, "--warmup-epochs"),
        ({"clip_grad": 0.0}, "--clip-grad"),
        ({"clip_grad": math.nan}, "--clip-grad"),
        ({"milestones": (3,)}, "--milestones"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_by_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        OptimiserConfig(**settings)  # pyright: ignore[reportArgumentType]
