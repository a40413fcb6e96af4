"""The page of a run: did it converge, what did it gain where, and which classes paid for it."""

import math
from collections.abc import Iterator

import numpy as np

from ...stores.arrays import GROUP_NAMES
from .bars_figure import bars_figure
from .class_figure import class_figure, trend
from .page import Figure, Page, Section, Table
from .plots import Bars, Series, legend, line_chart
from .run_report import ClassResults, Run, RunReport, Teacher
from .svg import Axis
from .words import count, number, percent, points

_STYLES = ("all", "head", "medium", "tail", "other")
_ACCURACY = Axis(title="accuracy", low=0, high=1, percent=True)
_TOLD = ("overall", *GROUP_NAMES)


def run_page(report: RunReport) -> Page:
    """What a run gave, on one page."""
    sections = [_group_section(report), _class_section(report), _curve_section(report)]
    firsts = [section.figures[0].conclusion for section in sections[1:] if section.figures]
    return Page(
        kind="run",
        title=report.run.name,
        notice=" ".join(_notices(report)),
        conclusions=(*_group_sentences(report), *firsts),
        facts=tuple(_facts(report)),
        sections=tuple(section for section in sections if section.figures or section.notes),
    )


def _notices(report: RunReport) -> Iterator[str]:
    run, base, teacher = report.run, report.baseline, report.teacher
    if run.summary is None:
        yield f"This run is not finished: this report tells of its first {_epochs(run)}."
    if base is not None and base.summary is None:
        yield f"The baseline {base.name} is not finished, it has {_epochs(base)}: the two do not compare yet."
    if teacher is not None and not teacher.same_data:
        yield (
            f"The teacher's figures are on {teacher.data}, the run's on {run.config.get('val') or 'nothing'}: they do "
            "not compare. A store of the validation samples would."
        )


def _epochs(run: Run) -> str:
    total = run.config.get("epochs")
    return f"{len(run.records):,} of {total:,} epochs" if isinstance(total, int) else count(len(run.records), "epoch")


def _group_section(report: RunReport) -> Section:
    notes = []
    if not report.run.accuracy:
        notes.append("The run was not validated: give --val to kdpipe distill.")
    if report.teacher is None:
        notes.append("No teacher beside it: give --store STORE, best one of the samples that the run is validated on.")
    figures = (_group_figure(report),) if report.run.accuracy else ()
    return Section(
        key="groups",
        title="What did it learn, and of which classes?",
        text="Validation accuracy after the last epoch: nothing is chosen on the validation samples.",
        figures=figures,
        notes=tuple(notes),
    )


def _group_figure(report: RunReport) -> Figure:
    run, base, teacher = report.run, report.baseline, report.teacher
    found = [("this run", "student", run.accuracy)]
    if base is not None:
        found.append((f"baseline {base.name}", "baseline", base.accuracy))
    if teacher is not None:
        found.append((_teacher_name(teacher), "teacher", teacher.accuracy))
    names = [name for name in _TOLD if any(name in accuracy for _, _, accuracy in found)]
    bars = [
        Bars(name=name, style=style, values=tuple(accuracy.get(each, math.nan) for each in names))
        for name, style, accuracy in found
    ]
    conclusion = " ".join(_group_sentences(report))
    return bars_figure(names, bars, _ACCURACY, title="Accuracy by class group", conclusion=conclusion, head="group")


def _group_sentences(report: RunReport) -> Iterator[str]:
    run, base, teacher = report.run, report.baseline, report.teacher
    if not run.accuracy:
        return
    yield _plain_result(run)
    if base is not None and base.accuracy:
        yield f"{_gain(run, base.name, base.accuracy)} One pair of runs; seeds vary."
    if teacher is not None and teacher.same_data:
        yield _gain(run, "the teacher", teacher.accuracy)


def _gain(run: Run, name: str, other: dict[str, float]) -> str:
    gains = {each: run.accuracy[each] - other[each] for each in run.accuracy if each in other}
    told = ", ".join(f"{group} {100 * gains[group]:+.1f}" for group in GROUP_NAMES if group in gains)
    return f"Against {name}: {points(gains.get('overall'))} overall" + (f" ({told})." if told else ".")


def _plain_result(run: Run) -> str:
    told = [f"{percent(run.accuracy[name])} in {name} classes" for name in GROUP_NAMES if name in run.accuracy]
    groups = f": {', '.join(told)}" if told else ""
    return f"The student names {percent(run.accuracy.get('overall'))} of the labels{groups}."


def _class_section(report: RunReport) -> Section:
    classes, base = report.run.classes, report.baseline
    notes, figures = [], []
    if classes is None:
        notes.append("The run keeps no results by class (it was not validated, or made by an older kdpipe).")
    else:
        figures.append(_accuracy_by_class(classes))
        if base is not None and base.classes is not None:
            figures.append(_change_by_class(classes, base.name, _fractions(base.classes)))
        elif base is not None:
            notes.append(f"The baseline {base.name} keeps no results by class.")
        if report.teacher is not None and report.teacher.same_data:
            figures.append(_change_by_class(classes, "the teacher", np.array(report.teacher.classes)))
    return Section(
        key="classes",
        title="Which classes gained, and which paid?",
        text="Each dot is a class, placed by how many training samples it has.",
        figures=tuple(figures),
        notes=tuple(notes),
    )


def _accuracy_by_class(classes: ClassResults) -> Figure:
    values = _fractions(classes)
    never = int((values[np.isfinite(values)] == 0).sum())
    conclusion = (
        f"{count(never, 'class')} of {np.isfinite(values).sum():,} {'is' if never == 1 else 'are'} never named "
        f"rightly. {trend('Accuracy', classes, values, percent)}"
    )
    return class_figure(classes, values, "Accuracy, class by class", conclusion, _ACCURACY, "accuracy")


def _change_by_class(classes: ClassResults, name: str, other: np.ndarray) -> Figure:
    change = _fractions(classes) - other
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    conclusion = (
        f"Against {name}, {count(better, 'class')} gained and {worse:,} lost. "
        f"{trend('The change', classes, change, points)}"
    )
    axis, title = Axis(title="change of accuracy, in points"), f"Change against {name}, class by class"
    return class_figure(classes, 100 * change, title, conclusion, axis, "change, in points", zero=True)


def _fractions(classes: ClassResults) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.array(classes.correct, float) / np.array(classes.rows, float)


def _curve_section(report: RunReport) -> Section:
    figures = [_loss_figure(report)]
    if len(report.run.curve("val_overall")) > 1:
        figures.append(_accuracy_curves(report))
    return Section(key="curves", title="Did it converge?", figures=tuple(figures))


def _loss_figure(report: RunReport) -> Figure:
    run, base = report.run, report.baseline
    series = [
        Series(name=name, style=_STYLES[place % len(_STYLES)], points=run.curve(name))
        for place, name in enumerate(run.losses)
    ]
    if base is not None and base.curve("loss"):
        series.append(Series(name=f"loss of {base.name}", style="baseline", points=base.curve("loss")))
    losses = [value for _, value in run.curve("loss")]
    tenth = max(1, len(losses) // 10)
    fall = losses[-1 - tenth] - losses[-1] if len(losses) > tenth else math.nan
    conclusion = f"The loss went from {number(losses[0], 3)} to {number(losses[-1], 3)}" + (
        f"; in the last tenth of the epochs it {'fell' if fall >= 0 else 'rose'} by {number(abs(fall), 2)}."
        if math.isfinite(fall)
        else "."
    )
    positive = all(value > 0 for each in series for _, value in each.points)
    axes = _epochs_axis(series), Axis(title="mean training loss", log=positive)
    return Figure(
        title="Training loss",
        conclusion=conclusion,
        plot=line_chart(series, *axes, conclusion, dots=len(run.records) <= 20),
        legend=legend(series),
        table=_curves_table(series),
    )


def _accuracy_curves(report: RunReport) -> Figure:
    run, base = report.run, report.baseline
    series = [
        Series(name=name, style=style, points=run.curve(f"val_{name}"))
        for name, style in zip(_TOLD, _STYLES, strict=False)
        if run.curve(f"val_{name}")
    ]
    if base is not None and base.curve("val_overall"):
        series.append(Series(name=f"overall of {base.name}", style="baseline", points=base.curve("val_overall")))
    best_epoch, best = max(run.curve("val_overall"), key=lambda point: point[1])
    last = run.curve("val_overall")[-1][1]
    conclusion = f"Overall accuracy ended at {percent(last)}" + (
        ", its highest of all epochs."
        if best <= last
        else f"; it was highest, {percent(best)}, after epoch {best_epoch:.0f}."
    )
    return Figure(
        title="Validation accuracy",
        conclusion=conclusion,
        plot=line_chart(series, _epochs_axis(series), _ACCURACY, conclusion, dots=len(run.curve("val_overall")) <= 20),
        legend=legend(series),
        table=_curves_table(series, in_percent=True),
    )


def _epochs_axis(series: list[Series]) -> Axis:
    """Marked at a few epochs that there are."""
    last = int(max(epoch for each in series for epoch, _ in each.points))
    step = next(size for power in range(9) for size in (10**power, 2 * 10**power, 5 * 10**power) if 7 * size >= last)
    return Axis(title="epoch", ticks=tuple(float(epoch) for epoch in range(step, last + 1, step)))


def _curves_table(series: list[Series], *, in_percent: bool = False) -> Table:
    epochs = sorted({epoch for each in series for epoch, _ in each.points})
    values = [dict(each.points) for each in series]
    tell = percent if in_percent else number
    rows = [(f"{epoch:.0f}", *(tell(value.get(epoch)) for value in values)) for epoch in epochs]
    return Table(head=("epoch", *(each.name for each in series)), rows=tuple(rows))


def _teacher_name(teacher: Teacher) -> str:
    return "teacher" if teacher.same_data else f"teacher, on {teacher.data}"


def _facts(report: RunReport) -> Iterator[tuple[str, str]]:
    run, summary = report.run, report.run.summary or {}
    config, seconds, parameters = run.config, summary.get("seconds"), summary.get("num_parameters")
    values = (
        ("Run", run.path),
        ("Student", config.get("student")),
        ("Loss", " + ".join(map(str, config.get("loss", [])))),
        ("Epochs, batch size, seed", f"{config.get('epochs')}, {config.get('batch_size')}, {config.get('seed')}"),
        ("Learning rate", f"{config.get('lr')}, {config.get('optimizer')}, {config.get('schedule')}"),
        ("Parameters", None if parameters is None else f"{parameters:,}"),
        ("Time", None if seconds is None else f"{seconds:,.0f} s"),
        ("Training data", config.get("data") or "that of the store"),
        ("Validation data", config.get("val") or "none"),
        ("Store", config.get("store")),
        ("Store id", config.get("resolved", {}).get("store_id")),
        ("Mismatch allowed", config.get("allow_mismatch")),
        ("Baseline", report.baseline.path if report.baseline else None),
        ("Teacher", f"{report.teacher.spec}, on {report.teacher.data}" if report.teacher else None),
    )
    for name, value in values:
        if value:
            yield name, str(value)
