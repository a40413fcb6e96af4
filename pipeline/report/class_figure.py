"""The figure in which every class is a dot, placed by how many training samples it has."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np

from ...stores.arrays import GROUP_NAMES
from ...stores.codecs.fidelity import spearman
from .page import Figure, Table
from .plots import Series, legend, line_chart
from .svg import Axis

_MAX_DOTS = 500
_NO_TREND = 0.2


class Classes(Protocol):
    """What must be known of the classes, (C,) each."""

    counted: ClassVar[str]

    @property
    def names(self) -> Sequence[str]:
        """Of the classes."""
        ...

    @property
    def counts(self) -> Sequence[int]:
        """Samples by which they are placed; ``counted`` says of what."""
        ...

    @property
    def groups(self) -> Sequence[int]:
        """0 head, 1 medium, 2 tail."""
        ...


def class_figure(
    classes: Classes, values: np.ndarray, title: str, conclusion: str, axis: Axis, name: str, *, zero: bool = False
) -> Figure:
    """A number of each class against its training count; of very many classes, an even choice is shown.

    Args:
        classes: the classes.
        values: (C,); a class whose number is not finite is left out.
        title: of the figure.
        conclusion: what follows from it.
        axis: of the numbers.
        name: what they are, in the table.
        zero: also draw where they are 0.
    """
    counts = np.array(classes.counts)
    order = np.argsort(-counts, kind="stable")
    order = order[np.isfinite(values[order])]
    shown: list[int] = order[:: max(1, -(-len(order) // _MAX_DOTS))].tolist()
    if len(shown) < len(order):
        conclusion += f" Shown: {len(shown):,} of the {len(order):,} classes."
    series = []
    for group, style in enumerate(GROUP_NAMES):
        members = [c for c in shown if classes.groups[c] == group]
        dots = tuple((float(max(counts[c], 0.5)), float(values[c])) for c in members)
        series.append(Series(name=style, style=style, points=dots, names=tuple(classes.names[c] for c in members)))
    rows = [
        (classes.names[c], f"{counts[c]:,}", GROUP_NAMES[classes.groups[c]], axis.text(float(f"{values[c]:.3g}")))
        for c in shown
    ]
    x_axis = Axis(title=classes.counted, log=True)
    return Figure(
        title=title,
        conclusion=conclusion,
        plot=line_chart(series, x_axis, axis, f"{title}. {conclusion}", lines=False, zero=zero),
        legend=legend(series, lines=False),
        table=Table(head=("class", classes.counted, "group", name), rows=tuple(rows)),
    )


def trend(subject: str, counts: Sequence[int], values: np.ndarray) -> str:
    """In words, how the classes' numbers go with their training counts: by Spearman's correlation."""
    known = np.isfinite(values)
    correlation = float(spearman(np.array(counts, float)[known][None], values[known][None])[0]) if known.any() else 0.0
    if abs(correlation) < _NO_TREND:
        return f"{subject} hardly depends on how frequent a class is (rank correlation {correlation:.2f})."
    how = "higher" if correlation > 0 else "lower"
    return f"{subject} is {how} for frequent classes (rank correlation {correlation:.2f})."
