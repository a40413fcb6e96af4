"""The figure in which every class is a dot, placed by how many training samples it has."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import numpy as np

from ...stores.arrays import GROUP_NAMES
from ...stores.codecs.fidelity import spearman
from .page import Figure, Table
from .plots import Series, legend, line_chart
from .svg import Axis
from .words import listed

_MAX_DOTS = 500
# how much more frequent the largest class must be than the smallest, for frequency to say anything
_LONG_TAILED = 2
_NO_TREND = 0.2
# of fewer classes a correlation is mostly chance
_FEW_CLASSES = 5


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

    Where the classes are about equally frequent they stand side by side, group by group.

    Args:
        classes: the classes.
        values: (C,); a class whose number is not finite is left out.
        title: of the figure.
        conclusion: what follows from it.
        axis: of the numbers.
        name: what they are, in the table.
        zero: also draw where they are 0.
    """
    counts, side_by_side = np.array(classes.counts), about_equal(classes.counts)
    order = np.lexsort((-values, np.array(classes.groups))) if side_by_side else np.argsort(-counts, kind="stable")
    order = order[np.isfinite(values[order])]
    shown: list[int] = order[:: max(1, -(-len(order) // _MAX_DOTS))].tolist()
    if len(shown) < len(order):
        conclusion += f" Shown: {len(shown):,} of the {len(order):,} classes."
    if side_by_side:
        places = {c: float(place) for place, c in enumerate(shown, 1)}
        x_axis = Axis(title="classes, group by group, the highest of each first", low=0, high=len(shown) + 1)
    else:
        places = {c: float(max(counts[c], 0.5)) for c in shown}
        x_axis = Axis(title=classes.counted, log=True)
    series = []
    for group, style in enumerate(GROUP_NAMES):
        members = [c for c in shown if classes.groups[c] == group]
        dots = tuple((places[c], float(values[c])) for c in members)
        series.append(Series(name=style, style=style, points=dots, names=tuple(classes.names[c] for c in members)))
    rows = [
        (classes.names[c], f"{counts[c]:,}", GROUP_NAMES[classes.groups[c]], axis.text(float(f"{values[c]:.3g}")))
        for c in shown
    ]
    return Figure(
        title=title,
        conclusion=conclusion,
        plot=line_chart(series, x_axis, axis, f"{title}. {conclusion}", lines=False, zero=zero),
        legend=legend(series, lines=False),
        table=Table(head=("class", classes.counted, "group", name), rows=tuple(rows)),
    )


def about_equal(counts: Sequence[int]) -> bool:
    """Whether the classes are about equally frequent."""
    return max(counts) < _LONG_TAILED * max(min(counts), 1)


def trend(subject: str, classes: Classes, values: np.ndarray, tell: Callable[[float], str]) -> str:
    """In words, how the classes' numbers go with their counts, by Spearman's correlation, or with their groups.

    Args:
        subject: what the numbers are.
        classes: the classes.
        values: (C,) the numbers.
        tell: a number as it is written.
    """
    known, groups = np.isfinite(values), np.array(classes.groups)
    if not known.any():
        return f"{subject} is not known of any class."
    if about_equal(classes.counts) or known.sum() < _FEW_CLASSES:
        members = [(name, values[known & (groups == group)]) for group, name in enumerate(GROUP_NAMES)]
        means = listed(f"{tell(float(each.mean()))} in the {name}" for name, each in members if len(each))
        return f"{subject} is {means}, in the mean over the classes."
    counts = np.array(classes.counts, float)
    correlation = float(spearman(counts[known][None], values[known][None])[0])
    if abs(correlation) < _NO_TREND:
        return f"{subject} hardly depends on how frequent a class is (rank correlation {correlation:.2f})."
    how = "higher" if correlation > 0 else "lower"
    return f"{subject} is {how} for frequent classes (rank correlation {correlation:.2f})."
