"""Which trials are trained side by side: those that share their batches, as many as memory holds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from kdpipe.pipeline import DistillConfig, OptimiserConfig
from kdpipe.pipeline.sweep import cohorts as cohorts_module
from kdpipe.pipeline.sweep.cohorts import cohorts, student_bytes
from kdpipe.stores import Store, UsageError

BASE = DistillConfig(student="kdpipe:convnet_tiny", data="digits", val="digits", out=Path("s"))


def no_store(_: DistillConfig) -> Store | None:
    return None


def grouped(*changes: dict, limit: int | None = None) -> list[list[int]]:
    configs = {i: dataclasses.replace(BASE, out=Path(f"{i}"), **change) for i, change in enumerate(changes)}
    return cohorts(configs, no_store, limit)


def test_what_is_a_student_s_own_does_not_part_it_from_others() -> None:
    own = [{"optimiser": OptimiserConfig(lr=1.0)}, {"epochs": 3}, {"ema": 0.9}, {"student": "kdpipe:resnet20"},
           {"precision": "bf16"}, {"loss": ("logit-adjustment",)}, {"seed": 0}]  # fmt: skip
    assert grouped({}, *own) == [list(range(8))]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"data_seed": 1}, {"batch_size": 64}, {"data": "digits,split=train"}, {"val": "digits,split=test"},
     {"preprocess": "image,channels=3"}, {"augment": "crop-flip,size=8,padding=1"}, {"student": "torchvision:resnet18"}],
)  # fmt: skip
def test_other_batches_are_another_cohort(change: dict) -> None:
    assert grouped({}, change, {}, change) == [[0, 2], [1, 3]]


def test_a_data_seed_brings_seeds_together() -> None:
    assert grouped(*({"seed": seed, "data_seed": 5} for seed in range(3))) == [[0, 1, 2]]


def test_a_cohort_is_bounded_by_a_number_and_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [len(part) for part in grouped(*[{}] * 40)] == [16, 16, 8]
    assert [len(part) for part in grouped(*[{}] * 5, limit=2)] == [2, 2, 1]
    needed = 5 * student_bytes(BASE.student)
    assert needed > 5 * 4 * 24_000, "weights in bytes, five times"
    monkeypatch.setattr(cohorts_module, "_memory", lambda _: 4 * 3.5 * needed)
    assert [len(part) for part in grouped(*[{}] * 7)] == [3, 3, 1]
    monkeypatch.setattr(cohorts_module, "_memory", lambda _: 1)
    assert [len(part) for part in grouped(*[{}] * 2)] == [1, 1], "one at a time, whatever memory there is"


def test_a_student_that_does_not_exist_is_refused_and_one_that_fails_is_not(
    module: Callable[[str, str], None],
) -> None:
    module("late_students", "def student(): raise ValueError('not today')")
    with pytest.raises(UsageError, match="Did you mean 'convnet_tiny'"):
        student_bytes("kdpipe:convnet_tny")
    assert student_bytes("python:late_students:student") == 0
