"""The page of a sweep: which settings won, what they cost, and how surely."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ...stores.arrays import GROUP_NAMES
from ..sweep.leaderboard import Standing
from ..sweep.table import Row
from .page import Figure, Page, Section, Table
from .parallel import Column, Line, parallel_coordinates
from .plots import Series, legend, line_chart
from .svg import Axis
from .sweep_report import SEED, SweepReport, setting
from .words import NONE, count, number, percent

_MAX_LINES = 300
_MAX_COLUMNS = 6
_MAX_KINDS = 8


def sweep_page(report: SweepReport) -> Page:
    """What a sweep found, on one page."""
    sections = [_trials_section(report)]
    conclusions = []
    if report.finished:
        compared = [_settings_section(report)] if len(report.finished) > 1 else []
        sections = [_board(report), *compared, _cost_section(report), *sections]
        conclusions = [_winner(report), *(section.figures[0].conclusion for section in sections if section.figures)]
    return Page(
        kind="sweep",
        title=report.path.rstrip("/").rpartition("/")[2],
        notice=_notice(report),
        conclusions=tuple(conclusions),
        facts=tuple(_facts(report)),
        sections=tuple(section for section in sections if section.figures or section.table),
    )


def _notice(report: SweepReport) -> str:
    states = Counter(row.state for row in report.trials)
    if set(states) == {"done"}:
        return ""
    told = ", ".join(f"{states[state]:,} {state}" for state in sorted(states))
    return f"Not every trial is done: {told}. Only those that are done are compared."


def _board(report: SweepReport) -> Section:
    names = [name for name in report.varied if name != SEED]
    rows = tuple(
        (
            f"{place + 1}",
            *(setting(standing, name) for name in names),
            *(_mean_and_spread(standing, name) for name in report.measured),
            f"{standing.seeds:,}",
        )
        for place, standing in enumerate(report.standings)
    )
    return Section(
        key="board",
        title="Leaderboard",
        text=f"Settings by their {report.metric} validation accuracy: mean and standard deviation over the seeds. "
        "The best of many is too good by luck: measure it again, on other samples.",
        table=Table(head=("place", *names, *report.measured, "seeds"), rows=rows),
    )


def _mean_and_spread(standing: Standing, metric: str) -> str:
    mean, spread = percent(standing.mean[metric], 2), standing.spread[metric]
    return mean if spread is None else f"{mean.removesuffix(' %')} ± {percent(spread, 2)}"


def _trials_section(report: SweepReport) -> Section:
    several = len({row.store_id for row in report.trials}) > 1
    head = ("trial", "state", *report.varied, *report.measured, "parameters", "seconds", "run", *["store id"] * several)
    rows = tuple(
        (
            row.id,
            f"{row.state}: {row.error}" if row.error else row.state,
            *(setting(row, name) for name in report.varied),
            *(percent(getattr(row, name), 2) for name in report.measured),
            number(row.parameters, 6),
            number(row.seconds, 3),
            row.path,
            *[row.store_id or NONE] * several,
        )
        for row in report.trials
    )
    anchors = tuple(f"trial-{place}" for place in range(len(rows)))
    return Section(key="trials", title="All trials", table=Table(head=head, rows=rows, anchors=anchors))


def _settings_section(report: SweepReport) -> Section:
    telling = [name for name in report.varied if name != SEED and 1 < len(_values(report, name)) <= _MAX_KINDS]
    return Section(
        key="settings",
        title="Which settings matter?",
        text="Each line is a trial, the stronger the better; choose one to come to its row. Then each setting by "
        "itself: the others vary too, so read differences with care.",
        figures=(_parallel_figure(report), *(_effect_figure(report, name) for name in telling[:_MAX_COLUMNS])),
    )


def _parallel_figure(report: SweepReport) -> Figure:
    rows = report.finished[:_MAX_LINES]
    columns = [_column(name, [setting(row, name) for row in rows]) for name in report.varied[:_MAX_COLUMNS]]
    for metric in dict.fromkeys((report.metric, "tail")):
        if metric in report.measured:
            values = tuple(math.nan if getattr(row, metric) is None else getattr(row, metric) for row in rows)
            columns.append(Column(name=metric, values=values, axis=_accuracy(metric)))
    lines = [
        Line(anchor=f"trial-{place}", title=_name(row, report), rank=place / max(len(rows) - 1, 1))
        for place, row in enumerate(rows)
    ]
    conclusion = _shared(report)
    if len(rows) < len(report.finished):
        conclusion += f" Shown: the best {len(rows):,} of {len(report.finished):,} trials."
    return Figure(
        title="Parallel coordinates",
        conclusion=conclusion,
        plot=parallel_coordinates(columns, lines, f"Parallel coordinates of {count(len(rows), 'trial')}. {conclusion}"),
        table=Table(
            head=("trial", *(column.name for column in columns)),
            rows=tuple((row.id, *(_cell(column, place) for column in columns)) for place, row in enumerate(rows)),
        ),
        wide=True,
    )


def _shared(report: SweepReport) -> str:
    """What the best trials have in common."""
    best = report.finished[: max(2, round(len(report.finished) / 10))]
    names = [name for name in report.varied if name != SEED]
    common = [name for name in names if len({setting(row, name) for row in best}) == 1]
    shared = [f"{name} {setting(best[0], name)}" for name in common if setting(best[0], name) != NONE]
    if not shared:
        return f"The best {count(len(best), 'trial')} share no setting."
    return f"The best {count(len(best), 'trial')} share {', '.join(shared)}."


def _effect_figure(report: SweepReport, name: str) -> Figure:
    """The trials by the values of one setting."""
    values = _values(report, name)
    found = {v: [report.score(row) for row in report.finished if setting(row, name) == v] for v in values}
    means = {value: float(np.mean(scores)) for value, scores in found.items()}
    best = max(means, key=lambda value: means[value])
    dots = tuple((float(place), score) for place, value in enumerate(values) for score in found[value])
    series = [
        Series(name="trials", style="head", points=dots),
        Series(name="mean", style="other", points=tuple((float(p), means[v]) for p, v in enumerate(values))),
    ]
    conclusion = (
        f"With {name} {best} the mean over {count(len(found[best]), 'trial')} is {percent(means[best])}; with "
        f"the worst value, {percent(min(means.values()))}."
    )
    axis = Axis(title=name, low=-0.5, high=len(values) - 0.5, names=tuple(values))
    return Figure(
        title=f"Accuracy by {name}",
        conclusion=conclusion,
        plot=line_chart(series, axis, _accuracy(report.metric), conclusion, lines=False),
        legend=legend(series, lines=False),
        table=Table(
            head=(name, "mean", "lowest", "highest", "trials"),
            rows=tuple(
                (v, percent(means[v], 2), percent(min(found[v]), 2), percent(max(found[v]), 2), f"{len(found[v]):,}")
                for v in values
            ),
        ),
    )


def _cost_section(report: SweepReport) -> Section:
    return Section(
        key="cost",
        title="What does accuracy cost?",
        text="A trial is on the front if no other is both cheaper and better.",
        figures=tuple(
            _cost_figure(report, cost, title)
            for cost, title in (("parameters", "parameters of the student"), ("seconds", "seconds of training"))
            if len({getattr(row, cost) for row in report.finished} - {None}) > 1
        ),
    )


def _cost_figure(report: SweepReport, cost: str, title: str) -> Figure:
    rows = sorted(
        (row for row in report.finished if getattr(row, cost)), key=lambda row: (getattr(row, cost), -report.score(row))
    )
    front: list[Row] = []
    for row in rows:
        if not front or report.score(row) > report.score(front[-1]):
            front.append(row)
    series = [
        Series(
            name=name, style=style, names=tuple(_name(row, report) for row in chosen),
            points=tuple((float(getattr(row, cost)), report.score(row)) for row in chosen),
        )
        for name, style, chosen in (("trials", "head", rows), ("the front", "tail", front))
    ]  # fmt: skip
    conclusion = _front_words(report, front, cost)
    cells = tuple((row.id, number(getattr(row, cost), 6), percent(report.score(row), 2)) for row in front)
    return Figure(
        title=f"Accuracy against {cost}",
        conclusion=conclusion,
        plot=line_chart(series, Axis(title=title, log=True), _accuracy(report.metric), conclusion, lines=False),
        legend=legend(series, lines=False),
        table=Table(head=("trial on the front", title, report.metric), rows=cells),
    )


def _front_words(report: SweepReport, front: Sequence[Row], cost: str) -> str:
    first, last = front[0], front[-1]
    if first is last:
        return f"Trial {first.id} is the cheapest in {cost} and the best."
    factor = getattr(last, cost) / getattr(first, cost)
    gain = 100 * (report.score(last) - report.score(first))
    return f"From the cheapest trial to the best, {gain:.1f} points cost {number(factor, 2)} times the {cost}."


def _winner(report: SweepReport) -> str:
    best = report.standings[0]
    names = [f"{name} {setting(best, name)}" for name in report.varied if name != SEED and setting(best, name) != NONE]
    groups = [f"{percent(best.mean[name])} in {name} classes" for name in GROUP_NAMES if best.mean[name] is not None]
    told = f" ({', '.join(groups)})" if groups else ""
    what = ", ".join(names) or "the only setting"
    return (
        f"The best setting is {what}: {percent(best.mean[report.metric])} {report.metric} accuracy over "
        f"{count(best.seeds, 'seed')}{told}."
    )


def _name(row: Row, report: SweepReport) -> str:
    settings = ", ".join(f"{name} {setting(row, name)}" for name in report.varied)
    return f"{row.id} ({settings}): {percent(report.score(row))}"


def _column(name: str, values: list[str]) -> Column:
    """A setting's axis: of numbers where they are many, else of kinds."""
    numbers = _numbers(values)
    if numbers is None or len(set(values)) <= _MAX_KINDS:
        return Column(name=name, values=tuple(values), order=tuple(_ordered(values)))
    return Column(name=name, values=tuple(numbers), axis=Axis(title=name))


def _cell(column: Column, place: int) -> str:
    value = column.values[place]
    if isinstance(value, str):
        return value
    return column.axis.text(float(f"{value:.4g}")) if column.axis is not None and math.isfinite(value) else NONE


def _values(report: SweepReport, name: str) -> list[str]:
    return _ordered(setting(row, name) for row in report.finished)


def _ordered(values: Iterable[str]) -> list[str]:
    """Different values, numbers by size, none last."""
    different = sorted(set(values))
    numbers = _numbers(different)
    return different if numbers is None else [different[place] for place in np.argsort(numbers)]  # NaN is put last


def _numbers(values: Iterable[str]) -> list[float] | None:
    """NaN for none; None where there are other words."""
    try:
        return [math.nan if value == NONE else float(value) for value in values]
    except ValueError:
        return None


def _accuracy(metric: str) -> Axis:
    return Axis(title=f"{metric} accuracy", percent=True)


def _facts(report: SweepReport) -> Iterator[tuple[str, str]]:
    yield "Sweep", report.path
    yield "Trials", f"{len(report.trials):,}, {len(report.finished):,} of them done"
    yield "Ranked by", f"{report.metric} accuracy on the validation samples"
    yield "Varied", ", ".join(report.varied) or "nothing"
    if report.store_ids:
        yield "Store id", ", ".join(report.store_ids)
    for name, value in report.fixed.items():
        if value:
            yield f"All: {name}", value
