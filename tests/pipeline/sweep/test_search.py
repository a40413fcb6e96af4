"""TPE: different settings, the same ones again after a kill, better than chance; halving keeps the better half."""

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline import DistillConfig
from kdpipe.pipeline.sweep import Row, SweepConfig
from kdpipe.pipeline.sweep.halving import rungs, worse_half
from kdpipe.pipeline.sweep.search import Score, suggestions
from kdpipe.pipeline.sweep.space import Point, Space

pytest.importorskip("optuna")

BASE = DistillConfig(student="kdpipe:convnet_tiny", data="digits", val="digits", out=Path("s"))
SIZES = {"lr": 8, "momentum": 8}


def tpe(trials: int) -> Space:
    settings = {name: tuple(f"{(i + 1) / 10}" for i in range(size)) for name, size in SIZES.items()}
    return Space(SweepConfig(base=BASE, losses=("ce", "kd"), settings=settings, search="tpe", trials=trials))


def score(point: Point) -> Score:
    """Best at lr=0.2, momentum=0.7 with kd; some fail, and some are pruned."""
    if point["lr"] == "0.8":
        return Score(value=None)
    value = -abs(float(point["lr"]) - 0.2) - abs(float(point["momentum"]) - 0.7) + 0.1 * (point["loss"] == "kd")
    return Score(value=value, stopped=3 if point["lr"] in ("0.6", "0.7") else None)


def tried(space: Space, of: Callable[[Point], Score] = score) -> list[Point]:
    return [point for points in suggestions(space, of) for point in points]


def test_suggestions_differ_and_depend_on_nothing_but_the_scores() -> None:
    space = tpe(14)
    points = tried(space)
    assert len(points) == 14
    assert len({tuple(point.items()) for point in points}) == 14
    assert tried(tpe(14)) == points, "what was told before is all that the next suggestion depends on"
    assert tried(space, lambda point: Score(value=random.Random(str(point)).random())) != points
    first = [point for generation in islice(suggestions(space, score), 2) for point in generation]
    assert first == points[: len(first)]


def test_a_space_that_is_smaller_than_asked_for_is_tried_whole() -> None:
    config = SweepConfig(base=BASE, losses=("ce", "kd"), settings={"loss.temperature": ("1", "2", "4")},
                         search="tpe", trials=50)  # fmt: skip
    points = tried(Space(config), lambda _: Score(value=0.5))
    assert len(points) == 4
    assert {tuple(point.items()) for point in points} == {tuple(point.items()) for point in Space(config).points()}


def test_tpe_finds_better_settings_than_chance() -> None:
    points = tried(tpe(32))
    found = [value for point in points[-16:] if (value := score(point).value) is not None]
    whole = [value for point in tpe(32).points() if (value := score(point).value) is not None]
    assert sum(found) / len(found) > sum(whole) / len(whole) + 0.1


@given(st.integers(1, 200), st.integers(1, 400))
def test_rungs_leave_something_to_compare_and_something_to_train(num_points: int, epochs: int) -> None:
    found = rungs(num_points, epochs)
    assert found == sorted(set(found))
    assert all(1 <= epoch < epochs for epoch in found)
    assert num_points >= 2 ** len(found)
    assert found == [] or epochs // 8 <= found[0]
    assert rungs(8, 30) == [3, 7, 15]


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["waiting", "failed", "done"])), max_size=12))
def test_the_better_half_goes_on_by_the_mean_over_seeds(values: list[tuple[int, str]]) -> None:
    groups = {
        (str(i),): [
            Row(id=f"{i}-{seed}", state=state, student="s", loss="kd", seed=seed, balanced=value + seed, path="p")  # pyright: ignore[reportArgumentType]
            for seed in (0, 1)
        ]
        for i, (value, state) in enumerate(values)
    }
    stopped = {row.id.split("-")[0] for row in worse_half(groups, "balanced")}
    alive = [i for i, (_, state) in enumerate(values) if state == "waiting"]
    best = sorted(alive, key=lambda i: -values[i][0])  # stable: of equal ones the earlier goes on
    assert stopped == {str(i) for i in best[(len(best) + 1) // 2 :]}
