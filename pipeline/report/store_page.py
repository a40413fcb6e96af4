"""The page of a store: is the teacher biased, can its confidence be trusted, what does it know of the tail."""

from collections.abc import Iterator, Sequence
from typing import Any

from ...stores.arrays import GROUP_NAMES
from ...stores.codecs import TopK
from .class_figure import about_equal
from .comparison_section import comparison_section, other_inputs
from .fidelity_section import fidelity_section
from .page import Figure, Page, Section
from .store_figures import (
    accuracy_figure,
    balanced_figure,
    class_accuracy_figure,
    class_mass_figure,
    confusion_figure,
    coverage_figure,
    entropy_figure,
    flow_figure,
    found_figure,
    mass_figure,
    reliability_figure,
)
from .store_report import StoreReport
from .words import count


def store_page(report: StoreReport) -> Page:
    """What a store says of its teacher, on one page."""
    sections = [
        _mass_section(report),
        _accuracy_section(report),
        _calibration_section(report),
        _order_section(report),
        fidelity_section(report),
    ]
    if report.comparison is not None:
        sections.append(comparison_section(report.comparison))
    return Page(
        kind="store",
        title=report.path.rstrip("/").rpartition("/")[2],
        notice=_notice(report),
        conclusions=tuple(_conclusions(report, sections)),
        facts=tuple(_facts(report)),
        sections=tuple(section for section in sections if section.figures or section.notes or section.conclusion),
    )


def _conclusions(report: StoreReport, sections: Sequence[Section]) -> Iterator[str]:
    """The first of each section; of the masses also what they would be if the samples were not long-tailed."""
    for section in sections:
        if section.conclusion or section.figures:
            yield section.conclusion or section.figures[0].conclusion
        if section.key == "mass" and section.figures and not about_equal(report.samples.class_rows):
            sentence = section.figures[1].conclusion
            if sentence != section.figures[0].conclusion:
                yield f"If every class were as frequent: {sentence[0].lower()}{sentence[1:]}"


def _notice(report: StoreReport) -> str:
    manifest, sentences = report.manifest, []
    if manifest.state != "complete":
        sentences.append(
            f"This store is not finished: this report tells of its first {report.rows:,} of {manifest.num_samples:,} "
            f"samples. Run the same {manifest.made_by.strip('`')} again to complete it."
        )
    if manifest.num_views > 1:
        sentences.append(f"This report tells of view 0, the first of {manifest.num_views:,} views of every sample.")
    if report.comparison is not None and (sentence := other_inputs(report.comparison)):
        sentences.append(sentence)
    return " ".join(sentences)


def _mass_section(report: StoreReport) -> Section:
    figures: list[Figure] = []
    if report.payload.masses:
        figures = [mass_figure(report), balanced_figure(report), flow_figure(report)]
        if report.payload.masses[0].classes is not None:
            figures.append(class_mass_figure(report))
    return Section(
        key="mass",
        title="Is the teacher biased between head and tail?",
        text=(
            "A teacher's probabilities add up to 1 for each sample; a group's mass is what its classes get. "
            "A teacher trained on long-tailed data tends to give head classes more than their share (LTKD, "
            "arXiv 2506.18496). A student that copies the probabilities copies the bias."
        ),
        figures=tuple(figures),
        notes=report.payload.missing,
    )


def _accuracy_section(report: StoreReport) -> Section:
    return Section(
        key="accuracy",
        title="Where is the teacher right?",
        text=(
            f"On the {count(report.rows, 'sample')} of this store. If the teacher was trained on them, it is better "
            "here than on new data: for a fair figure, extract data that it has not seen."
        ),
        notes=tuple(_group_notes(report)),
        figures=(accuracy_figure(report), confusion_figure(report), class_accuracy_figure(report)),
    )


def _group_notes(report: StoreReport) -> Iterator[str]:
    counts = report.classes.counts
    if report.manifest.augmentation is not None:
        yield "The teacher saw augmented inputs, view 0 of them: it is worse on these than on plain ones."
    by_frequency = not report.manifest.group_rule.startswith("file:")
    if by_frequency and about_equal(counts):
        yield (
            f"The classes of this store are about equally frequent ({min(counts):,} to {max(counts):,} samples): "
            f"groups by the rule {report.manifest.group_rule} say little. To see how it treats the tail of its "
            "training data, give it the groups of that data: kdpipe store regroup, or extract with --groups FILE."
        )


def _calibration_section(report: StoreReport) -> Section:
    return Section(
        key="calibration",
        title="Can its confidence be trusted?",
        text=(
            "Confidence is the largest probability at T = 1. A calibrated teacher that says 80 % is right in 80 % of "
            "the cases. The expected calibration error (ECE, 15 bins) is the mean distance from that. Bins of fewer "
            "than 5 samples are not drawn."
        ),
        notes=tuple(_entropy_notes(report)),
        figures=(entropy_figure(report),) if report.mixed else (reliability_figure(report), entropy_figure(report)),
    )


def _entropy_notes(report: StoreReport) -> Iterator[str]:
    if report.mixed:
        yield "Every input is mixed of two samples: no one label is right, so that calibration cannot be told."
    if report.manifest.teacher.spec.startswith("imported") and isinstance(report.manifest.logit_codec, TopK):
        yield "Of an imported store of the best classes, the entropy is a lower bound: the others count as one class."


def _order_section(report: StoreReport) -> Section:
    order = report.payload.order
    return Section(
        key="order",
        title="Does it know the tail at all?",
        text=(
            "A class that is never among the teacher's best k is a class of which a student learns little from "
            "rank losses and from stores of the best k classes."
        ),
        figures=() if order is None else (coverage_figure(order), found_figure(order)),
    )


def _facts(report: StoreReport) -> Iterator[tuple[str, str]]:
    manifest, groups = report.manifest, report.classes.groups
    accuracy = manifest.accuracy
    sizes = (f"{groups.count(number)} {name}" for number, name in enumerate(GROUP_NAMES))
    values = (
        ("Store", report.path),
        ("Store id", manifest.store_id),
        ("Content", manifest.receipts),
        ("State", manifest.state),
        ("Teacher", f"{manifest.teacher.spec} ({manifest.teacher.num_parameters:,} parameters)"),
        ("Teacher's weights", manifest.teacher.checksum),
        ("Data", manifest.dataset.spec),
        ("Samples", f"{manifest.num_samples:,}, {count(manifest.num_views, 'view')}; this page is about view 0"),
        ("Classes", f"{manifest.num_classes:,}: {', '.join(sizes)} (rule: {manifest.group_rule})"),
        ("Codec", f"{manifest.logit_codec} ({manifest.array_names})"),
        ("Accuracy, as recorded", None if accuracy is None else f"{100 * accuracy.overall:.2f} % overall"),
        ("Augmentation", _pairs(manifest.augmentation)),
        *(("Derived from", f"{parent.store_id}: {parent.change}") for parent in manifest.parents),
        ("Licence", manifest.licence or "not stated"),
        ("Owner", manifest.owner),
        ("Extractor", manifest.extractor),
        ("Note", manifest.note),
        ("Made", f"{manifest.created} by kdpipe {manifest.kdpipe_version}"),
    )
    for name, value in values:
        if value:
            yield name, value


def _pairs(values: dict[str, Any] | None) -> str | None:
    return None if values is None else ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
