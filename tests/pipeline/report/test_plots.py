"""Scales and their ticks, the units of small numbers, and trends in words."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.report.class_figure import trend
from kdpipe.pipeline.report.comparison_section import _nats_chart
from kdpipe.pipeline.report.plots import Bars
from kdpipe.pipeline.report.store_report import StoreClasses
from kdpipe.pipeline.report.svg import Axis, Scale
from kdpipe.pipeline.report.words import percent

RANGES = st.tuples(st.floats(1e-6, 1e6), st.floats(1.2, 1e6)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@given(ends=RANGES, log=st.booleans())
def test_an_axis_has_several_ticks_all_within_it_and_all_written_differently(
    ends: tuple[float, float], log: bool
) -> None:
    axis = Axis(title="x", log=log)
    scale = Scale.of(axis, ends, 0, 100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(-0.5 <= scale(tick) <= 100.5 for tick in ticks)
    written = [axis.text(tick) for tick in ticks]
    assert len(set(written)) == len(written)
    assert max(map(len, written)) <= 8


@pytest.mark.parametrize(("low", "high"), [(0.943, 3.308), (24058, 40000), (90, 110)])
def test_a_short_logarithmic_axis_is_marked_at_round_numbers(low: float, high: float) -> None:
    for tick in Scale.of(Axis(title="x", log=True), (low, high), 0, 100).ticks():
        assert math.isclose(tick, float(f"{tick:.3g}"))


@pytest.mark.parametrize(
    ("largest", "unit", "shown"),
    [
        (0.5, "nats", "0.5"),
        (0.0123, "thousandths of a nat", "12"),
        (1.3e-5, "millionths of a nat", "13"),
        (0.0, "millionths", "0"),
    ],
)
def test_a_small_divergence_is_told_in_a_small_unit(largest: float, unit: str, shown: str) -> None:
    plot = _nats_chart(["head"], [Bars(name="across", style="head", values=(largest,))], "about it")
    assert unit in plot
    assert f">{shown}</text>" in plot


@pytest.mark.parametrize(
    ("counts", "values", "words"),
    [
        ((90, 30, 3), (0.9, 0.5, 0.1), "It is higher for frequent classes (rank correlation 1.00)."),
        ((90, 30, 3), (0.1, math.nan, 0.9), "It is lower for frequent classes (rank correlation -1.00)."),
        ((90, 30, 3), (0.5, 0.5, 0.5), "It hardly depends on how frequent a class is (rank correlation 0.00)."),
        (
            (9, 9, 5),
            (0.9, math.nan, 0.1),
            "It is 90.0 % in the head and 10.0 % in the tail, in the mean over the classes.",
        ),
        ((9, 9, 5), (math.nan,) * 3, "It is not known of any class."),
    ],
)
def test_a_trend_is_one_of_counts_or_of_groups(counts: tuple[int, ...], values: tuple[float, ...], words: str) -> None:
    classes = StoreClasses(names=("a", "b", "c"), counts=counts, groups=(0, 1, 2))
    assert trend("It", classes, np.array(values), percent) == words
