"""Scales and their ticks, the units of small numbers, and trends in words."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.report.class_figure import trend
from kdpipe.pipeline.report.comparison_section import _nats_chart
from kdpipe.pipeline.report.page import Table
from kdpipe.pipeline.report.plots import Bars, Series, bar_chart
from kdpipe.pipeline.report.run_page import _epochs_axis
from kdpipe.pipeline.report.store_report import StoreClasses
from kdpipe.pipeline.report.svg import Axis, Scale
from kdpipe.pipeline.report.sweep_page import _ordered
from kdpipe.pipeline.report.words import percent

LONG = (90, 60, 30, 20, 9, 3)
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


@given(st.lists(st.floats(0, 1), min_size=1), st.booleans())
def test_an_axis_of_fractions_stays_within_them(values: list[float], equal: bool) -> None:
    scale = Scale.of(Axis(title="x", percent=True), values[:1] * 3 if equal else values, 0, 100)
    assert 0 <= scale.low < scale.high <= 1


@pytest.mark.parametrize("values", [(0.28, 1.3), (5, 90), (2, 2)])
def test_a_logarithmic_axis_has_room_and_marks_at_both_ends(values: tuple[float, float]) -> None:
    scale = Scale.of(Axis(title="x", log=True), values, 0, 100)
    assert 2 < scale(values[0]) <= scale(values[1]) < 98
    assert scale(scale.ticks()[0]) < 25


@pytest.mark.parametrize(
    ("last", "ticks"), [(1, [1]), (3, [1, 2, 3]), (8, [2, 4, 6, 8]), (60, [10, 20, 30, 40, 50, 60])]
)
def test_epochs_are_marked_that_there_are(last: int, ticks: list[float]) -> None:
    points = tuple((float(epoch), 0.5) for epoch in range(1, last + 1))
    assert list(_epochs_axis([Series(name="loss", style="all", points=points)]).ticks or ()) == ticks


@pytest.mark.parametrize(("value", "labels"), [(0.0865, 0), (87.0, 8)])
def test_numbers_above_bars_have_room_or_are_left_out(value: float, labels: int) -> None:
    bars = [Bars(name=name, style="head", values=(value,) * 4) for name in "ab"]
    assert bar_chart(["a", "b", "c", "d"], bars, Axis(title="y", low=0), "about it").count('class="value"') == labels


def test_columns_of_words_are_read_from_the_left() -> None:
    rows = (("0", "kd", "15.42 ± 0.59 %", "1e-05", "24,476"), ("1", "kd,alpha=2", "none", "", "-1.5 k"))
    assert Table(head=("id", "loss", "accuracy", "lr", "size"), rows=rows).words == (False, True, False, False, False)


@pytest.mark.parametrize(
    ("values", "order"), [(["10", "none", "9"], ["9", "10", "none"]), (["b", "none", "a"], ["a", "b", "none"])]
)
def test_none_is_a_setting_after_the_others(values: list[str], order: list[str]) -> None:
    assert _ordered(values) == order


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
        (LONG, (0.9, 0.8, 0.5, 0.3, 0.2, 0.1), "It is higher for frequent classes (rank correlation 1.00)."),
        (LONG, (0.1, math.nan, 0.2, 0.3, 0.8, 0.9), "It is lower for frequent classes (rank correlation -1.00)."),
        (LONG, (0.5,) * 6, "It hardly depends on how frequent a class is (rank correlation 0.00)."),
        (  # of four classes, a correlation is mostly chance
            LONG,
            (0.1, 0.2, math.nan, math.nan, 0.8, 0.9),
            "It is 15.0 % in the head and 85.0 % in the tail, in the mean over the classes.",
        ),
        (
            (9, 9, 9, 9, 5, 5),
            (0.9, 0.9, math.nan, math.nan, 0.1, 0.1),
            "It is 90.0 % in the head and 10.0 % in the tail, in the mean over the classes.",
        ),
        (LONG, (math.nan,) * 6, "It is not known of any class."),
    ],
)
def test_a_trend_is_one_of_counts_or_of_groups(counts: tuple[int, ...], values: tuple[float, ...], words: str) -> None:
    classes = StoreClasses(names=tuple("abcdef"), counts=counts, groups=(0, 0, 1, 1, 2, 2))
    assert trend("It", classes, np.array(values), percent) == words
