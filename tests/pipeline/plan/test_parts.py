"""The parts of a plan: the choice of samples, the size of compressed chunks, the disk, the break-even number."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.plan.costs import break_even, measure_disk
from kdpipe.pipeline.plan.pilot import stratified
from kdpipe.pipeline.plan.records import StudentTimes


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=300), st.integers(1, 320), st.integers(0, 3),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
)  # fmt: skip
def test_every_class_and_group_has_its_share(labels: list[int], count: int, seed: int, groups: list[int]) -> None:
    label, class_groups = np.array(labels), np.array(groups)
    chosen = stratified(label, class_groups, count, seed)
    assert len(chosen) == min(count, len(label))
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == stratified(label, class_groups, count, seed).tolist()
    share = len(chosen) / len(label)
    for strata in (label, class_groups[label]):
        for stratum in range(6):
            expected = (strata == stratum).sum() * share
            assert abs((strata[chosen] == stratum).sum() - expected) < 1 + 1e-6


def test_shares_hold_where_chance_alone_would_miss_them() -> None:
    labels = np.random.default_rng(0).integers(0, 20, 4000)
    chosen = stratified(labels, np.arange(20) % 3, 400, 0)
    assert np.abs(np.bincount(labels[chosen]) - np.bincount(labels) / 10).max() < 1


def test_which_samples_of_a_class_is_chance() -> None:
    labels, groups = np.arange(1000) % 10, np.zeros(10, np.int64)
    first, second = (set(stratified(labels, groups, 100, seed).tolist()) for seed in (0, 1))
    assert 0 < len(first & second) < 50


def test_the_disk_is_measured_and_left_clean(tmp_path: Path) -> None:
    disk = measure_disk(tmp_path, 1000)
    assert disk.file_seconds > 0
    assert 1e5 < disk.bytes_per_second < 1e11
    assert disk.seconds(3, 1e6) == pytest.approx(3 * disk.file_seconds + 1e6 / disk.bytes_per_second)
    assert disk.free_bytes > 0
    assert not list(tmp_path.iterdir())


seconds = st.floats(1e-6, 1e-2)


@given(st.floats(0.1, 1e6), st.integers(1, 10**6), seconds, seconds, seconds, st.integers(1, 300))
def test_break_even_is_where_the_totals_cross(
    extraction: float, samples: int, alone: float, teacher: float, decode: float, epochs: int
) -> None:
    student = StudentTimes(
        student="s", batch_size=1, seconds_per_sample=alone, live_seconds_per_sample=alone + teacher, epochs=epochs
    )
    number = break_even(extraction, samples, student, decode)
    passes = epochs * samples

    def saved(students: int) -> float:
        live = students * passes * student.live_seconds_per_sample
        return live - (extraction + students * passes * (alone + decode))

    if number is None:
        assert student.live_seconds_per_sample - alone <= decode
    elif number < 10**9:
        slack = 1e-6 * (extraction + number * passes * (teacher + alone + decode))
        assert saved(number) > -slack
        assert saved(number - 1) <= slack
