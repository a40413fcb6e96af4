"""The part of a store's page that says what storing changed, by what the store itself keeps of its teacher."""

from collections.abc import Iterator

from .bars_figure import bars_figure
from .codec_fidelity import CodecFidelity
from .page import Figure, Section, Table
from .plots import Bars, bar_chart
from .store_report import StoreReport
from .svg import Axis
from .words import count, number, percent

_MASS = Axis(title="share of a group's mass", low=0, high=1, percent=True)


def fidelity_section(report: StoreReport) -> Section:
    """How far the stored logits are from the teacher's; empty for a store without logits."""
    key, title, found = "fidelity", "What did storing change?", report.payload.fidelity
    if not report.manifest.logit_arrays:
        return Section(key=key, title=title)
    if found is None:
        note = f"Nothing: the codec {report.manifest.logit_codec} stores every logit as it came."
        return Section(key=key, title=title, notes=(note,))
    figures = (_kept_figure(found),) if found.kept_mass else _best_figures(found)
    compared = "all samples" if found.rows == report.rows else f"{count(found.rows, 'sample')} spread evenly"
    return Section(
        key=key,
        title=title,
        text=(
            f"The codec is {found.codec}. The sample tables and the ranks were written from the logits as they came, "
            f"before anything was rounded or left out; the stored logits are held against them, on {compared}. To "
            "have the divergence too, compare this store with a float32 one."
        ),
        conclusion="" if figures else _best_verdict(found),
        figures=figures,
        table=Table(head=("measure", "value"), rows=tuple(_measures(found))),
    )


def _best_verdict(found: CodecFidelity) -> str:
    same = percent(found.same_best["all"], 2)
    ties = "" if found.ties is None else f"; {percent(found.ties, 2)} of the neighbours in the order are equal"
    return f"With {found.codec} the best stored class is the teacher's for {same} of the samples{ties}."


def _best_figures(found: CodecFidelity) -> tuple[Figure, ...]:
    """None where storing changed no best class."""
    names, differs = tuple(found.same_best), tuple(1 - value for value in found.same_best.values())
    if not any(differs):
        return ()
    conclusion = _best_verdict(found)
    figure = Figure(
        title="Another best class after storing",
        conclusion=conclusion,
        plot=bar_chart(
            names, [Bars(name="another best class", style="head", values=differs)],
            Axis(title="share of the samples", low=0, percent=True), conclusion,
        ),
        table=Table(
            head=("samples of", "another best class"),
            rows=tuple((name, percent(value, 2)) for name, value in zip(names, differs, strict=True)),
        ),
    )  # fmt: skip
    return (figure,)


def _kept_figure(found: CodecFidelity) -> Figure:
    names = tuple(next(iter(found.kept_mass.values())))
    styles = ("head", "other", "head faint", "other faint")
    bars = [
        Bars(name=f"T = {t:g}", style=styles[place % len(styles)], values=tuple(kept.get(n, 0.0) for n in names))
        for place, (t, kept) in enumerate(found.kept_mass.items())
    ]
    conclusion = " ".join(_kept_verdict(t, kept) for t, kept in found.kept_mass.items())
    return bars_figure(names, bars, _MASS, title="Mass of the kept classes", conclusion=conclusion, head="mass of")


def _kept_verdict(temperature: float, kept: dict[str, float]) -> str:
    tail = f", {percent(kept['tail'])} of the tail's" if "tail" in kept else ""
    return f"At T = {temperature:g} the kept classes have {percent(kept['all'])} of the mass{tail}."


def _measures(found: CodecFidelity) -> Iterator[tuple[str, str]]:
    yield "samples compared", f"{found.rows:,}"
    yield "best class differs", percent(1 - found.same_best["all"], 2)
    if found.confidence_error is not None:
        yield "confidence, mean difference in points", number(100 * found.confidence_error, 3)
    if found.entropy_error is not None:
        yield "entropy, mean difference in nats", number(found.entropy_error, 3)
    if found.rank_correlation is not None:
        yield "rank correlation with the stored ranks", number(found.rank_correlation, 6)
    if found.ties is not None:
        yield "equal neighbours in the order", percent(found.ties, 2)
