"""The part of a store's page that compares it with another store."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from markupsafe import Markup

from ...stores.arrays import GROUP_NAMES
from .comparison import Comparison, Divergence
from .page import Figure, Section, Table
from .plots import Bars, bar_chart, legend
from .svg import Axis
from .words import count, listed, number, percent

# from where on a unit is used, how many of them a nat has, its name
_UNITS = ((0.1, 1.0, "nats"), (1e-4, 1e3, "thousandths of a nat"), (0.0, 1e6, "millionths of a nat"))


def comparison_section(comparison: Comparison) -> Section:
    """How the two differ, and in which part."""
    figures = [_parts_figure(comparison)] if comparison.divergences else []
    if comparison.divergences:
        figures.append(_label_figure(comparison.divergences[-1]))
    figures.append(_agreement_figure(comparison))
    return Section(
        key="against",
        title=f"Against {comparison.other.rstrip('/').rpartition('/')[2]}",
        text=(
            f"{count(comparison.rows, 'sample')} in both. {_what_differs(comparison)} The divergence "
            "KL(this || other) has a part across groups (how the mass is shared between head, medium and tail) and a "
            "part within them (how each group's mass is shared among its classes); they add up to the whole."
        ),
        figures=tuple(figures),
        notes=comparison.missing,
        table=Table(head=("measure", "value"), rows=tuple(_measures(comparison))),
    )


def other_inputs(comparison: Comparison) -> str:
    """What a reader must know first where the teachers saw other inputs; empty where nothing shows it."""
    inputs = comparison.inputs
    if not inputs.differing:
        return ""
    settings = [name for name in inputs.settings if name != "precision"]
    cause = (
        f"They come from other {listed(settings)}."
        if settings
        else "Preprocessing and augmentation agree: these are other images under the same ids, or the same images as "
        "other versions of the libraries read them."
    )
    return (
        f"This store and {comparison.other} are of other inputs: of {count(inputs.checked, 'sample')} whose input both "
        f"recorded, {inputs.differing:,} had another one there. {cause}"
    )


def _what_differs(comparison: Comparison) -> str:
    """What the divergence is of: of teachers, of inputs, or of what storing costs."""
    inputs = comparison.inputs
    if not comparison.same_teacher:
        return f"The other teacher is {comparison.other_teacher} (store {comparison.other_id})."
    if inputs.same:
        one, two = comparison.codecs
        return f"Both teachers have the same weights: what differs is what storing costs ({one} against {two})."
    return (
        f"Both teachers have the same weights, but other {listed(inputs.settings or ('inputs',))}: these two do not "
        "show what storing costs."
    )


def _parts_figure(comparison: Comparison) -> Figure:
    names = ["across groups", *(f"in {name}" for name in GROUP_NAMES)]
    styles = ("head", "other", "head faint", "other faint")
    bars = [
        Bars(name=f"T = {d.temperature:g}", style=styles[place % len(styles)], values=_parts(d))
        for place, d in enumerate(comparison.divergences)
    ]
    conclusion = " ".join(map(_verdict, comparison.divergences))
    return Figure(
        title="Parts of the divergence",
        conclusion=conclusion,
        plot=_nats_chart(names, bars, conclusion),
        legend=legend(bars),
        table=Table(
            head=("temperature", *names, "whole"),
            rows=tuple(
                (f"{d.temperature:g}", *(number(part) for part in _parts(d)), number(d.kl))
                for d in comparison.divergences
            ),
        ),
    )


def _label_figure(divergence: Divergence) -> Figure:
    names = tuple(divergence.by_label)
    across = tuple(cross for cross, _ in divergence.by_label.values())
    within = tuple(float("nan") if part is None else part for _, part in divergence.by_label.values())
    bars = [
        Bars(name="across groups", style="head", values=across),
        Bars(name="within groups", style="other", values=within),
    ]
    sums = {name: sum(part or 0 for part in parts) for name, parts in divergence.by_label.items()}
    widest = max(names, key=lambda name: sums[name])
    conclusion = (
        f"The two differ most on the samples of {widest} classes."
        if sums[widest]
        else "The two differ on the samples of no group."
    )
    return Figure(
        title=f"Divergence by the label's group, T = {divergence.temperature:g}",
        conclusion=conclusion,
        plot=_nats_chart(names, bars, conclusion),
        legend=legend(bars),
        table=Table(
            head=("samples of", "across groups", "within groups"),
            rows=tuple((name, number(a), number(b)) for name, a, b in zip(names, across, within, strict=True)),
        ),
    )


def _agreement_figure(comparison: Comparison) -> Figure:
    names = tuple(comparison.same_best)
    values = tuple(comparison.same_best.values())
    conclusion = f"Both name the same class first for {percent(values[0], 2)} of the samples."
    if comparison.rank_correlation is not None:
        conclusion += (
            f" Their orders of the classes have a mean rank correlation of {number(comparison.rank_correlation)}."
        )
    return Figure(
        title="Agreement on the best class",
        conclusion=conclusion,
        plot=bar_chart(
            names, [Bars(name="same best class", style="head", values=values)],
            Axis(title="share of the samples", low=0, high=1, percent=True), conclusion,
        ),
        table=Table(
            head=("samples of", "same best class"),
            rows=tuple((name, percent(value, 2)) for name, value in zip(names, values, strict=True)),
        ),
    )  # fmt: skip


def _nats_chart(names: Sequence[str], bars: Sequence[Bars], description: str) -> Markup:
    """Bars of divergences, in a unit in which they are short numbers."""
    largest = max((value for each in bars for value in each.values if math.isfinite(value)), default=0.0)
    factor, unit = next((factor, unit) for least, factor, unit in _UNITS if largest >= least)
    scaled = [replace(each, values=tuple(factor * value for value in each.values)) for each in bars]
    return bar_chart(names, scaled, Axis(title=unit, low=0), description)


def _verdict(divergence: Divergence) -> str:
    where = f"At T = {divergence.temperature:g} the divergence"
    if divergence.kl is None:
        return f"{where} across groups is {number(divergence.cross, 3)} nats."
    if divergence.kl == 0:
        return f"{where} is 0."
    share = divergence.cross / divergence.kl
    return f"{where} is {number(divergence.kl, 3)} nats, {percent(share, 0)} of it across groups."


def _parts(divergence: Divergence) -> tuple[float, ...]:
    within = divergence.within
    return (divergence.cross, *(float("nan") if within is None else within[name] for name in GROUP_NAMES))


def _measures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for divergence in comparison.divergences:
        kl = f"at T = {divergence.temperature:g}"
        yield f"KL in nats, {kl}", number(divergence.kl)
        yield f"mean largest error of a group's mass, {kl}", number(divergence.group_mass_error)
    yield "best class differs", percent(1 - comparison.same_best["all"], 2)
    yield "overlap of the best five", percent(comparison.overlap, 2)
    yield "rank correlation of the classes' order", number(comparison.rank_correlation, 6)
    if comparison.ties is not None:
        yield "equal neighbours in the order, here", percent(comparison.ties[0], 2)
        yield "equal neighbours in the order, there", percent(comparison.ties[1], 2)
    yield "largest difference of a logit", number(comparison.largest_difference)
