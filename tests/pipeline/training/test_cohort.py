"""Students trained side by side end bit for bit as each would alone."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdpipe.pipeline import DistillConfig, DistillResult, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.distill import distill_cohort
from kdpipe.stores.errors import DivergedError, KdpipeError, UsageError

DATA = "digits,split=train,imbalance=20"
ODD_STUDENTS = '''
import torch
from torch import nn

class Student(nn.Module):
    """With all that may disturb a neighbour: random numbers, batch statistics, and inputs changed in place."""

    def __init__(self, num_classes, fails):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.head = nn.Linear(288, num_classes)
        self.fails, self.steps = fails, 0

    def forward(self, x):
        self.steps += self.training
        if self.fails and self.steps >= self.fails:
            raise ValueError("out of order")
        x.mul_(0.5).add_(0.1 * torch.rand(()))
        return self.head(self.body(x))

def student(num_classes, fails=0):
    return Student(num_classes, fails)
'''


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    distill(DistillConfig(student="kdpipe:convnet_tiny", data=DATA, out=root / "t", epochs=1))
    weights = f"kdpipe:convnet_tiny,weights={root / 't' / 'student.safetensors'}"
    extract(ExtractConfig(data=DATA, teacher=weights, out=root / "d.kd", chunk_rows=64))
    return root / "d.kd"


@pytest.fixture
def configs(store: Path, tmp_path: Path, module: Callable[[str, str], None]) -> list[DistillConfig]:
    """Students that have nothing in common but their data."""
    module("odd_students", ODD_STUDENTS)
    adamw = OptimiserConfig(optimizer="adamw", lr=1e-3, clip_grad=1.0)
    each: list[dict[str, Any]] = [
        {"loss": ("kd",), "seed": 1},
        {"loss": ("grkd",), "student": "python:odd_students:student", "ema": 0.9},
        {"loss": ("ltkd", "grkd,weight=0.1"), "optimiser": adamw, "student": "python:odd_students:student", "seed": 2},
        {"loss": ("ltkd,calibration=store",), "epochs": 2, "precision": "bf16"},
        {"loss": ("ce",), "val_every": 2, "student": "python:odd_students:student"},
    ]
    common: dict[str, Any] = {
        "student": "kdpipe:convnet_tiny", "store": store, "val": "digits,split=test", "epochs": 3, "batch_size": 32,
        "data_seed": 7, "optimiser": OptimiserConfig(lr=0.05),
    }  # fmt: skip
    return [DistillConfig(**{**common, **own}, out=tmp_path / f"{i}") for i, own in enumerate(each)]


def elsewhere(config: DistillConfig, folder: str) -> DistillConfig:
    return dataclasses.replace(config, out=config.out.parent / folder / config.out.name)


def same_runs(ours: DistillConfig, theirs: DistillConfig) -> bool:
    def records(of: DistillConfig) -> list[dict[str, Any]]:
        lines = (of.out / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]

    def file(of: DistillConfig, name: str) -> bytes:
        return (of.out / name).read_bytes()

    names = ("student.safetensors", "classes.parquet")
    return records(ours) == records(theirs) and all(file(ours, name) == file(theirs, name) for name in names)


def test_side_by_side_each_student_ends_as_it_does_alone(configs: list[DistillConfig]) -> None:
    outcomes = distill_cohort(configs)
    for config, outcome in zip(configs, outcomes, strict=True):
        alone = elsewhere(config, "alone")
        result = distill(alone)
        assert isinstance(outcome, DistillResult), outcome
        assert outcome.summary["val"] == result.summary["val"]
        assert same_runs(config, alone)


def test_students_at_different_places_catch_up_with_each_other(configs: list[DistillConfig]) -> None:
    """As after a kill between two checkpoints, and with another cohort than before."""
    whole = [elsewhere(config, "whole") for config in configs]
    distill_cohort(whole)
    distill_cohort(configs[1:2], until=2)
    stopped = distill_cohort(configs[:3], until=1)
    assert not any((config.out / "summary.json").exists() for config in configs)
    assert all(isinstance(outcome, DistillResult) and outcome.summary["val"] for outcome in stopped)
    distill_cohort(configs)
    assert all(same_runs(ours, theirs) for ours, theirs in zip(configs, whole, strict=True))


NOISY_DATA = """
import torch

class Noisy:
    targets = [i % 10 for i in range(96)]
    def __len__(self):
        return 96
    def __getitem__(self, i):
        return torch.rand(1, 8, 8) + 0.1 * self.targets[i], self.targets[i]

def data():
    return Noisy()
"""


def test_data_that_draw_random_numbers_are_the_same_beside_others_and_after_a_stop(
    tmp_path: Path, module: Callable[[str, str], None]
) -> None:
    module("noisy_data", NOISY_DATA)
    module("odd_students", ODD_STUDENTS)
    common: dict[str, Any] = {"data": "python:noisy_data:data", "val": "python:noisy_data:data", "epochs": 3,
                              "data_seed": 1, "batch_size": 16, "workers": 0, "val_every": 3}  # fmt: skip
    students = ("python:odd_students:student", "kdpipe:convnet_tiny")
    configs = [DistillConfig(student=student, out=tmp_path / f"{i}", **common) for i, student in enumerate(students)]
    distill_cohort(configs[:1], until=2)
    distill_cohort(configs, until=1)
    distill_cohort(configs)
    for config in configs:
        alone = elsewhere(config, "alone")
        distill(alone)
        assert (alone.out / "student.safetensors").read_bytes() == (config.out / "student.safetensors").read_bytes()


def test_who_fails_or_diverges_is_taken_out_and_the_others_go_on(configs: list[DistillConfig]) -> None:
    raises = dataclasses.replace(configs[1], student="python:odd_students:student,fails=9")
    diverges = dataclasses.replace(configs[2], optimiser=OptimiserConfig(lr=1e30))
    unknown = dataclasses.replace(configs[3], student="kdpipe:convnet_tniy")
    outcomes = distill_cohort([configs[0], raises, diverges, unknown, configs[4]])
    assert [type(outcome) for outcome in outcomes] == [
        DistillResult, KdpipeError, DivergedError, UsageError, DistillResult,
    ]  # fmt: skip
    assert "out of order" in str(outcomes[1])
    for config in (configs[0], configs[4]):
        alone = elsewhere(config, "alone")
        distill(alone)
        assert same_runs(config, alone)


def test_only_those_who_share_their_data_are_trained_side_by_side(configs: list[DistillConfig]) -> None:
    for name, value in {"batch_size": 64, "data_seed": None, "val": None}.items():
        with pytest.raises(UsageError, match=name):
            distill_cohort([configs[0], dataclasses.replace(configs[1], **{name: value})])  # pyright: ignore[reportArgumentType]


def test_with_a_data_seed_only_the_first_weights_differ(configs: list[DistillConfig]) -> None:
    assert configs[0].order_seed == configs[2].order_seed == 7
    assert dataclasses.replace(configs[2], data_seed=None).order_seed == 2
