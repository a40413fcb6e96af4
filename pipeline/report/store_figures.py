"""The figures of a store's page: each a plot, the sentence that follows from it, and its numbers.

A sentence is written from the numbers it is about, so that it cannot say what they do not.
"""

import math

import numpy as np

from ...stores.arrays import GROUP_NAMES
from .bars_figure import bars_figure
from .class_figure import class_figure, trend
from .page import Figure, Table
from .payload import MassStatistics, OrderStatistics
from .plots import Bars, Series, bar_chart, heat_map, legend, line_chart
from .sample_tables import CONFIDENCE_BINS, ENTROPY_BINS
from .store_report import StoreReport
from .svg import Axis
from .words import count, listed, number, percent

_SHARE = Axis(title="share", low=0, percent=True)
_STYLES = ("head", "medium", "tail")
# of a share: within this, a teacher is called fair
_FAIR = 0.05
# a bin of fewer samples is in the table, but its accuracy is mostly chance
_DRAWN_BIN = 5


def mass_figure(report: StoreReport) -> Figure:
    """The groups' masses on the samples as they are, beside their share of the samples."""
    truth = _shares(report, report.samples.class_rows)
    return _mass_bars(
        "Mass of the groups, on the samples as they are",
        report.payload.masses,
        [mass.groups for mass in report.payload.masses],
        truth,
        "share of the samples",
    )


def balanced_figure(report: StoreReport) -> Figure:
    """The same where every class counts alike: what LTKD calls the teacher's bias."""
    seen = [int(rows > 0) for rows in report.samples.class_rows]
    return _mass_bars(
        "Mass of the groups, if every class were as frequent",
        report.payload.masses,
        [mass.balanced for mass in report.payload.masses],
        _shares(report, seen),
        "share of the classes",
    )


def flow_figure(report: StoreReport) -> Figure:
    """Where the mass of each group's samples goes, at the last temperature."""
    mass = report.payload.masses[-1]
    leak = [mass.flow[2][0], mass.flow[0][2]]
    title = f"Where the mass goes, T = {mass.temperature:g}"
    conclusion = (
        f"Samples of tail classes give {percent(leak[0])} of their mass to head classes; samples of head classes give "
        f"{percent(leak[1])} to the tail."
        if all(map(math.isfinite, leak))
        else f"There are no samples of {' or '.join(_absent(report))} classes here."
    )
    plot = heat_map(_STYLES, _STYLES, mass.flow, ("samples of", "mass given to"), f"{title}. {conclusion}")
    return Figure(title=title, conclusion=conclusion, plot=plot, table=_square("samples of", mass.flow))


def class_mass_figure(report: StoreReport) -> Figure:
    """Each class: its mass over its share of the samples, against its training count."""
    mass = report.payload.masses[0]
    share = np.array(report.samples.class_rows) / report.rows
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(share > 0, np.array(mass.classes) / share, np.nan)
    low, high = (float(np.nanmin(ratios)), float(np.nanmax(ratios)))
    conclusion = (
        f"Single classes get between {number(low, 2)} and {number(high, 2)} times their share of the samples. "
        f"{trend('The ratio', report.classes, ratios, lambda ratio: number(ratio, 2))}"
    )
    return class_figure(
        report.classes, ratios, f"Mass over share, class by class, T = {mass.temperature:g}", conclusion,
        Axis(title="mass / share of the samples"), "mass / share",
    )  # fmt: skip


def accuracy_figure(report: StoreReport) -> Figure:
    """Accuracy by group."""
    rows, correct = (
        np.bincount(report.classes.groups, values, minlength=len(GROUP_NAMES))
        for values in (report.samples.class_rows, report.samples.class_correct)
    )
    values = [float(c / n) if n else math.nan for c, n in zip(correct, rows, strict=True)]
    overall = sum(report.samples.class_correct) / report.rows
    gap = values[0] - values[2]
    conclusion = f"The teacher names {percent(overall)} of the labels" + (
        f": {percent(values[0])} of those in head classes, {percent(values[2])} in tail classes."
        if math.isfinite(gap)
        else "."
    )
    if report.mixed:
        conclusion += " Every input is mixed with that of another sample, whose label does not count here."
    names = ("all", *GROUP_NAMES)
    bars = [Bars(name="accuracy", style="head", values=(overall, *values))]
    cells = zip(names, (overall, *values), (report.rows, *rows.astype(int).tolist()), strict=True)
    return Figure(
        title="Accuracy by class group",
        conclusion=conclusion,
        plot=bar_chart(names, bars, Axis(title="accuracy", low=0, high=1, percent=True), conclusion),
        table=Table(
            head=("group", "accuracy", "samples"),
            rows=tuple((name, percent(value, 2), f"{samples:,}") for name, value, samples in cells),
        ),
    )


def confusion_figure(report: StoreReport) -> Figure:
    """Which group the class named first is in, by the label's group."""
    counts = np.array(report.samples.confusion, float)
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(1, keepdims=True)
    missed = shares[2, 0]
    conclusion = (
        f"{percent(float(missed))} of the tail's samples are taken for a head class."
        if math.isfinite(missed)
        else "There are no samples of tail classes here."
    )
    title = "Confusion between groups"
    plot = heat_map(_STYLES, _STYLES, shares.tolist(), ("samples of", "taken for a class of"), f"{title}. {conclusion}")
    return Figure(title=title, conclusion=conclusion, plot=plot, table=_square("samples of", shares.tolist()))


def class_accuracy_figure(report: StoreReport) -> Figure:
    """Each class: accuracy against training count."""
    rows, correct = (np.array(v, float) for v in (report.samples.class_rows, report.samples.class_correct))
    with np.errstate(invalid="ignore"):
        values = correct / rows
    never = int((correct[rows > 0] == 0).sum())
    conclusion = (
        f"{count(never, 'class')} of {int((rows > 0).sum()):,} {'is' if never == 1 else 'are'} never named rightly. "
        f"{trend('Accuracy', report.classes, values, percent)}"
    )
    return class_figure(
        report.classes, values, "Accuracy, class by class", conclusion,
        Axis(title="accuracy", low=0, high=1, percent=True), "accuracy",
    )  # fmt: skip


def reliability_figure(report: StoreReport) -> Figure:
    """The reliability diagram, by group."""
    found = report.samples.reliability
    series = []
    for name, each in found.items():
        pairs = zip(each.counts, each.confidence, each.accuracy, strict=True)
        points = tuple((sure, right) for samples, sure, right in pairs if samples >= _DRAWN_BIN)
        series.append(Series(name=name, style=name, points=points))
    whole = found["all"]
    lean = "overconfident" if whole.gap > 0 else "underconfident"
    verdict = (
        f"{lean} by {100 * abs(whole.gap):.1f} points" if abs(whole.gap) >= 0.01 else "neither too sure nor too shy"
    )
    parts = [f"{100 * each.ece:.1f} in the {name}" for name, each in found.items() if name != "all"]
    conclusion = (
        f"The teacher is {verdict} on these samples; its ECE is {100 * whole.ece:.1f} points ({listed(parts)})."
    )
    unit = Axis(title="accuracy", low=0, high=1, percent=True)
    rows = []
    for name, each in found.items():
        for place in np.flatnonzero(each.counts):
            edges = f"{percent(place / CONFIDENCE_BINS, 0)} to {percent((place + 1) / CONFIDENCE_BINS, 0)}"
            cells = (percent(each.confidence[place]), percent(each.accuracy[place]), f"{each.counts[place]:,}")
            rows.append((f"{name}, {edges}", *cells))
        rows.append((f"{name}: ECE", "", percent(each.ece, 2), f"{sum(each.counts):,}"))
    return Figure(
        title="Reliability",
        conclusion=conclusion,
        plot=line_chart(
            series, Axis(title="mean confidence of a bin", low=0, high=1, percent=True), unit, conclusion, diagonal=True
        ),
        legend=legend(series),
        table=Table(head=("bin of confidence", "confidence", "accuracy", "samples"), rows=tuple(rows)),
    )


def entropy_figure(report: StoreReport) -> Figure:
    """How spread the probabilities are, by group."""
    found, largest = report.samples.entropy, math.log(len(report.classes.names))
    middles = [(place + 0.5) / ENTROPY_BINS * largest for place in range(ENTROPY_BINS)]
    series = []
    for name, counts in report.samples.entropy_counts.items():
        shares = [value / sum(counts) for value in counts]
        series.append(Series(name=name, style=name, points=tuple(zip(middles, shares, strict=True))))
    groups = [f"{number(value, 3)} in the {name}" for name, value in found.items() if name != "all"]
    conclusion = (
        f"Its mean entropy is {number(found['all'], 3)} nats ({listed(groups)}), of at most {number(largest, 3)}. "
        + _how_much_is_told(found["all"] / largest)
    )
    return Figure(
        title="Entropy",
        conclusion=conclusion,
        plot=line_chart(
            series, Axis(title="entropy at T = 1, in nats", low=0, high=largest),
            Axis(title="share of a group's samples", low=0, percent=True), conclusion, dots=False,
        ),
        legend=legend(series),
        table=Table(
            head=("entropy, nats", *(each.name for each in series)),
            rows=(
                ("mean", *(number(found[each.name], 3) for each in series)),
                *(
                    (f"about {number(middle, 3)}", *(percent(each.points[place][1]) for each in series))
                    for place, middle in enumerate(middles)
                ),
            ),
        ),
    )  # fmt: skip


def coverage_figure(order: OrderStatistics) -> Figure:
    """Which classes are ever among the best k."""
    tail = order.covered.get("tail")
    conclusion = "There are no tail classes."
    if tail is not None and "tail" not in order.found:
        conclusion = "There are no samples of tail classes here: whether the teacher knows them cannot be told."
    elif tail is not None:
        full = next((k for k, share in zip(order.depths, tail, strict=True) if share == 1), 0)
        conclusion = f"{percent(tail[0])} of the tail's classes are the teacher's first choice for at least one sample"
        if not full:
            conclusion += f", {percent(tail[-1])} are ever among its best {order.depths[-1]}."
        else:
            conclusion += f"; with its best {full}, every tail class appears." if full > 1 else "."
    return _depth_figure(
        "Classes ever among the best k", conclusion, order.depths, order.covered, "share of the group's classes"
    )


def found_figure(order: OrderStatistics) -> Figure:
    """How deep the label is found."""
    whole, place = order.found["all"], min(len(order.depths) - 1, 2)
    conclusion = f"The label is among the best {order.depths[place]} for {percent(whole[place])} of the samples"
    if "tail" in order.found:
        conclusion += f", and for {percent(order.found['tail'][place])} of the tail's"
    conclusion += ". Each class ranked above the label is a pair on which a rank loss argues against it."
    return _depth_figure("Labels among the best k", conclusion, order.depths, order.found, "share of the samples")


def _mass_bars(
    title: str,
    masses: tuple[MassStatistics, ...],
    values: list[tuple[float, ...]],
    truth: tuple[float, ...],
    truth_name: str,
) -> Figure:
    styles = ("head", "head faint", "other", "other faint")
    bars = [Bars(name=truth_name, style="truth", values=truth)]
    for place, (mass, groups) in enumerate(zip(masses, values, strict=True)):
        name = f"teacher's mass, T = {mass.temperature:g}"
        bars.append(Bars(name=name, style=styles[place % len(styles)], values=groups))
    told = (_verdict(m.temperature, g, truth, truth_name) for m, g in zip(masses, values, strict=True))
    conclusion = " ".join(told) if truth[2] else "There are no samples of tail classes here to hold their mass against."
    return bars_figure(
        GROUP_NAMES,
        bars,
        _SHARE,
        title=title,
        conclusion=conclusion,
        head="group",
        description=f"{title}. {conclusion}",
    )


def _verdict(temperature: float, groups: tuple[float, ...], truth: tuple[float, ...], truth_name: str) -> str:
    """What the tail gets, against what is its."""
    ratio = groups[2] / truth[2]
    how = "about its" if abs(ratio - 1) <= _FAIR else f"{number(ratio, 2)} times its"
    gets = f"At T = {temperature:g} the tail gets {percent(groups[2])} of the mass"
    return f"{gets}, {how} {truth_name} ({percent(truth[2])})."


def _depth_figure(
    title: str, conclusion: str, depths: tuple[int, ...], values: dict[str, tuple[float, ...]], y_title: str
) -> Figure:
    series = [
        Series(name=name, style=name, points=tuple(zip(map(float, depths), shares, strict=True)))
        for name, shares in values.items()
    ]
    x_axis = Axis(title="k", log=True, ticks=tuple(map(float, depths)))
    rows = [(f"best {k}", *(percent(shares[place]) for shares in values.values())) for place, k in enumerate(depths)]
    return Figure(
        title=title,
        conclusion=conclusion,
        plot=line_chart(series, x_axis, Axis(title=y_title, low=0, high=1, percent=True), f"{title}. {conclusion}"),
        legend=legend(series),
        table=Table(head=("k", *values), rows=tuple(rows)),
    )


def _square(corner: str, values: "list[list[float]] | tuple[tuple[float, ...], ...]") -> Table:
    rows = [(name, *(percent(value, 2) for value in row)) for name, row in zip(GROUP_NAMES, values, strict=True)]
    return Table(head=(corner, *GROUP_NAMES), rows=tuple(rows))


def _shares(report: StoreReport, weights: "tuple[int, ...] | list[int]") -> tuple[float, ...]:
    sums = np.bincount(report.classes.groups, weights, minlength=len(GROUP_NAMES))
    return tuple((sums / sums.sum()).tolist())


def _absent(report: StoreReport) -> list[str]:
    """Which of head and tail have no samples."""
    present = {report.classes.groups[c] for c, rows in enumerate(report.samples.class_rows) if rows}
    return [GROUP_NAMES[group] for group in (0, 2) if group not in present]


def _how_much_is_told(fraction: float) -> str:
    if fraction < 0.05:
        return "So sure a teacher says little beyond the label at T = 1: distil at a higher temperature."
    return (
        "There is much to learn beyond the label."
        if fraction > 0.2
        else "There is something to learn beyond the label."
    )
