"""What the pages conclude, word for word, from numbers that can be checked in the head."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.pipeline.report.comparison import Comparison, Divergence
from kdpipe.pipeline.report.comparison_section import comparison_section
from kdpipe.pipeline.report.page import Figure, Page
from kdpipe.pipeline.report.payload import OrderStatistics
from kdpipe.pipeline.report.run_page import run_page
from kdpipe.pipeline.report.run_report import ClassResults, Run, RunReport
from kdpipe.pipeline.report.store_figures import coverage_figure
from kdpipe.pipeline.report.store_page import store_page
from kdpipe.pipeline.report.store_report import report_store
from kdpipe.pipeline.report.sweep_page import sweep_page
from kdpipe.pipeline.report.sweep_report import report_sweep
from kdpipe.pipeline.sweep.table import Row, write_table

# samples, their label, and the probabilities that the teacher gives to class 0 (head), 1 (medium) and 2 (tail)
Said = Sequence[tuple[int, int, tuple[float, float, float]]]
FiguresOf = Callable[[Said], dict[str, Figure]]
SAID: Said = [(10, 0, (0.7, 0.2, 0.1)), (5, 1, (0.5, 0.3, 0.2)), (4, 2, (0.5, 0.4, 0.1)), (1, 2, (0.05, 0.05, 0.9))]


def figures_of(page: Page) -> dict[str, Figure]:
    """By title."""
    return {figure.title: figure for section in page.sections for figure in section.figures}


@pytest.fixture
def figures(tmp_path: Path, make_store: Callable[..., Any]) -> FiguresOf:
    """``figures(said)``: those of the page of a store of these samples."""

    def build(said: Said) -> dict[str, Figure]:
        times, labels, probabilities = zip(*said, strict=True)
        logits = np.log(np.repeat(probabilities, times, axis=0)).astype(np.float32)
        make_store(tmp_path / "said.kd", logits, np.repeat(labels, times))
        return figures_of(store_page(report_store(tmp_path / "said.kd", (1.0,))))

    return build


def test_a_store(figures: FiguresOf) -> None:
    told = {
        # of the tail's five samples: (4 * 0.5 + 0.05) / 5
        "Where the mass goes, T = 1": "Samples of tail classes give 41.0 % of their mass to head classes; samples of "
        "head classes give 10.0 % to the tail.",
        # masses 0.5775, 0.2575, 0.165 of shares 0.5, 0.25, 0.25
        "Mass over share, class by class, T = 1": "Single classes get between 0.66 and 1.2 times their share of the "
        "samples. The ratio is 1.2 in the head, 1 in the medium and 0.66 in the tail, in the mean over the classes.",
        "Accuracy by class group": "The teacher names 55.0 % of the labels: 100.0 % of those in head classes, 20.0 % "
        "in tail classes.",
        "Confusion between groups": "80.0 % of the tail's samples are taken for a head class.",
        "Accuracy, class by class": "1 class of 3 is never named rightly. Accuracy is 100.0 % in the head, "
        "0.0 % in the medium and 20.0 % in the tail, in the mean over the classes.",
        # a mean confidence of 0.62; bins of 10, 9 and 1 samples, off by 0.3, 0.5 and 0.1
        "Reliability": "The teacher is overconfident by 7.0 points on these samples; its ECE is 38.0 points (30.0 in "
        "the head, 50.0 in the medium and 42.0 in the tail).",
        # the label of four of the tail's samples is third
        "Labels among the best k": "The label is among the best 2 for 80.0 % of the samples, and for 20.0 % of the "
        "tail's. Each class ranked above the label is a pair on which a rank loss argues against it.",
    }
    found = figures(SAID)
    assert {title: found[title].conclusion for title in told} == told


@pytest.mark.parametrize(
    ("right", "verdict"),
    [(9, "underconfident by 20.0 points"), (7, "neither too sure nor too shy"), (5, "overconfident by 20.0 points")],
)
def test_a_teacher_that_is_70_percent_sure(right: int, verdict: str, figures: FiguresOf) -> None:
    said = [(right, 0, (0.7, 0.2, 0.1)), (10 - right, 1, (0.7, 0.2, 0.1))]
    assert figures(said)["Reliability"].conclusion.startswith(f"The teacher is {verdict} on these samples;")


def test_only_bins_of_five_samples_or_more_are_drawn(figures: FiguresOf) -> None:
    figure = figures(SAID)["Reliability"]
    dots = re.findall(r"<title>(\w+: [\d.]+ %, [\d.]+ %)</title>", figure.plot)
    assert dots == ["all: 50 %, 0 %", "all: 70 %, 100 %", "head: 70 %, 100 %", "medium: 50 %, 0 %"]
    assert ("tail, 47 % to 53 %", "50.0 %", "0.0 %", "4") in figure.table.rows
    assert ("tail, 87 % to 93 %", "90.0 %", "100.0 %", "1") in figure.table.rows


@pytest.mark.parametrize(
    ("sure", "verdict"),
    [  # entropies of 0.009, 0.11 and 1.1 of at most 1.1 nats
        (0.999, "So sure a teacher says little beyond the label at T = 1: distil at a higher temperature."),
        (0.98, "There is something to learn beyond the label."),
        (0.334, "There is much to learn beyond the label."),
    ],
)
def test_how_much_is_told(sure: float, verdict: str, figures: FiguresOf) -> None:
    rest = (1 - sure) / 2
    assert figures([(8, 0, (sure, rest, rest))])["Entropy"].conclusion.endswith(verdict)


@pytest.mark.parametrize(
    ("tail", "rest"),
    [
        ((1.0, 1.0, 1.0), "."),
        ((0.5, 1.0, 1.0), "; with its best 2, every tail class appears."),
        ((0.5, 0.75, 0.9), ", 90.0 % are ever among its best 5."),
    ],
)
def test_which_tail_classes_are_ever_named(tail: tuple[float, ...], rest: str) -> None:
    found = coverage_figure(OrderStatistics(depths=(1, 2, 5), covered={"tail": tail}, found={"tail": tail}))
    first = f"{100 * tail[0]:.1f} % of the tail's classes are the teacher's first choice for at least one sample"
    assert found.conclusion == first + rest


def divergence(temperature: float, cross: float, head: float | None) -> Divergence:
    """Largest for medium labels, though not its part across groups; ``head`` is the part within the head."""
    return Divergence(
        temperature=temperature, cross=cross, within=None if head is None else {"head": head, "medium": 0, "tail": 0},
        kl=None if head is None else cross + head, group_mass_error=0.0,
        by_label={"head": (cross, 0.0), "medium": (cross, 3 * cross), "tail": (2 * cross, cross)},
    )  # fmt: skip


def conclusions(*divergences: Divergence) -> list[str]:
    """Those of the figures of a comparison."""
    comparison = Comparison(
        other="b.kd", other_id="0" * 16, other_teacher="imported", codecs=("float32", "int8"), same_teacher=False,
        rows=20, divergences=divergences, same_best={"all": 0.9, "tail": 0.5}, overlap=1.0, rank_correlation=0.75,
        ties=None, largest_difference=None, missing=(),
    )  # fmt: skip
    return [figure.conclusion for figure in comparison_section(comparison).figures]


def test_two_stores() -> None:
    assert conclusions(divergence(1, 0.3, 0.1), divergence(4, 0.25, None)) == [
        "At T = 1 the divergence is 0.4 nats, 75 % of it across groups. At T = 4 the divergence across groups is 0.25 "
        "nats.",
        "The two differ most on the samples of medium classes.",
        "Both name the same class first for 90.00 % of the samples. Their orders of the classes have a mean rank "
        "correlation of 0.75.",
    ]
    same = ["At T = 1 the divergence is 0.", "The two differ on the samples of no group."]
    assert conclusions(divergence(1, 0.0, 0.0))[:2] == same


def a_run(name: str, *, losses: Sequence[float], accuracies: Sequence[float], correct: tuple[int, ...]) -> Run:
    """A finished run over four classes, validated on ten samples of each."""
    pairs = enumerate(zip(losses, accuracies, strict=True))
    records = tuple({"epoch": epoch, "loss": loss, "val_overall": overall} for epoch, (loss, overall) in pairs)
    classes = ClassResults(
        names=tuple("abcd"), counts=(80, 40, 20, 10), groups=(0, 0, 1, 2), rows=(10,) * 4, correct=correct
    )
    return Run(path=f"runs/{name}", config={}, records=records, summary={}, classes=classes)


@pytest.mark.parametrize(
    ("last_loss", "how", "last_accuracy", "accuracy"),
    [
        (1.5, "fell", 0.9, "90.0 %, its highest of all epochs."),
        (2.5, "rose", 0.6, "60.0 %; it was highest, 80.0 %, after epoch 4."),
    ],
)
def test_a_run(last_loss: float, how: str, last_accuracy: float, accuracy: str) -> None:
    losses, accuracies = (*range(10, 1, -1), last_loss), (0.1, 0.2, 0.3, 0.8, *[0.5] * 5, last_accuracy)
    ours = a_run("ours", losses=losses, accuracies=accuracies, correct=(9, 7, 6, 5))
    base = a_run("kd", losses=losses, accuracies=accuracies, correct=(10, 7, 5, 3))
    figures = figures_of(run_page(RunReport(run=ours, baseline=base)))
    loss = f"The loss went from 10 to {last_loss}; in the last tenth of the epochs it {how} by 0.5."
    assert figures["Training loss"].conclusion == loss
    assert figures["Validation accuracy"].conclusion == f"Overall accuracy ended at {accuracy}"
    change = figures["Change against kd, class by class"].conclusion
    assert change.startswith("Against kd, 2 classes gained and 1 lost. The change is -5.0 points in the head")


def test_a_sweep(tmp_path: Path) -> None:
    """Of four students the third is dearer than the second, and worse; the last is the largest, the best, the fastest."""
    old, new = {"lr": "0.1", "alpha": "2"}, {"lr": "0.05"}
    trials = [({**old, "tau": "3"}, 0.5, 40.0), (old, 0.7, 30.0), (new, 0.6, 20.0), (new, 0.8, 10.0)]
    rows = [
        Row(
            id=f"{place:04d}", state="done", student=f"s{place}", loss="kd", seed=0, settings=settings,
            overall=overall, parameters=1000 * (place + 1), seconds=seconds, path=f"runs/{place:04d}",
        )
        for place, (settings, overall, seconds) in enumerate(trials)
    ]  # fmt: skip
    (tmp_path / "config.json").write_text('{"metric": "overall"}')
    write_table(tmp_path, rows, ["lr", "alpha", "tau"])
    page = sweep_page(report_sweep(tmp_path))
    figures = figures_of(page)
    assert page.conclusions[0] == "The best setting is student s3, lr 0.05: 80.0 % overall accuracy over 1 seed."
    cost, time = figures["Accuracy against parameters"], figures["Accuracy against seconds"]
    assert [row[0] for row in cost.table.rows] == ["0000", "0001", "0003"]
    assert cost.conclusion == "From the cheapest trial to the best, 30.0 points cost 4 times the parameters."
    assert time.conclusion == "Trial 0003 is the cheapest in seconds and the best."
    assert figures["Parallel coordinates"].conclusion == "The best 2 trials share no setting."
    for best in ("lr 0.05", "alpha none"):
        told = f"With {best} the mean over 2 trials is 70.0 %; with the worst value, 60.0 %."
        assert figures[f"Accuracy by {best.split()[0]}"].conclusion == told
