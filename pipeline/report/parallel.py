"""Parallel coordinates: one line for each trial, one upright axis for each setting and result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .svg import Axis, Scale, element, line, path, picture, shortened, text

_TOP, _BOTTOM, _WIDTH = 34.0, 268.0, 860
_MAX_NAMES = 12
_SHADES = 5
# lines that the Tab key stops at: the best ones; all are in the table
_REACHED = 20


@dataclass(frozen=True, kw_only=True)
class Column:
    """One upright axis.

    Attributes:
        name: what it shows.
        values: one for each line: numbers, or texts that are set at even distances.
        axis: how numbers are told; None for texts.
        order: of the texts, from below; by default that of the alphabet.
    """

    name: str
    values: tuple[float, ...] | tuple[str, ...]
    axis: Axis | None = None
    order: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: where it leads to on the page, what it is, and its rank from 0 (best) to 1 (worst)."""

    anchor: str
    title: str
    rank: float


def parallel_coordinates(columns: Sequence[Column], lines: Sequence[Line], description: str) -> Markup:
    """Lines through upright axes; each is a link that can be reached with the keyboard, the best ones on top."""
    gap = (_WIDTH - 120) / max(len(columns) - 1, 1)
    xs = [60 + gap * place for place in range(len(columns))]
    parts, heights = [], []
    for x, column in zip(xs, columns, strict=True):
        places, marks = _places(column)
        heights.append(places)
        parts += [line(x, _TOP, x, _BOTTOM, "axis"), text(column.name, x, 16, class_="category")]
        parts += [text(mark, x + 6, y + 4, anchor="start", class_="label halo") for mark, y in marks]
    order = sorted(range(len(lines)), key=lambda number: -lines[number].rank)
    drawn = []
    for number in order:
        reached = {} if number < _REACHED else {"tabindex": -1}
        points = [(x, places[number]) for x, places in zip(xs, heights, strict=True)]
        shade = min(int(lines[number].rank * _SHADES), _SHADES - 1)
        strokes = path(points, f"trial rank-{shade}"), path(points, "reach")
        title = element("title", lines[number].title)
        drawn.append(
            element("a", title, *strokes, href=f"#{lines[number].anchor}", aria_label=lines[number].title, **reached)
        )
    return picture(description, *drawn, *parts, height=_BOTTOM + 14, width=_WIDTH, role="group")


def _places(column: Column) -> tuple[list[float], list[tuple[str, float]]]:
    """Where each line crosses an axis (NaN where it has no value), and what is written beside it."""
    if column.axis is not None:
        numbers = [float(value) for value in column.values]
        scale = Scale.of(column.axis, numbers, _BOTTOM, _TOP)
        usable = [math.isfinite(value) and (value > 0 or not scale.log) for value in numbers]
        places = [scale(value) if good else math.nan for value, good in zip(numbers, usable, strict=True)]
        return places, [(column.axis.text(tick), scale(tick)) for tick in scale.ticks()]
    names = list(column.order) or sorted({str(value) for value in column.values})
    scale = Scale(low=-0.5, high=len(names) - 0.5, start=_TOP, stop=_BOTTOM)
    at = {name: scale(place) for place, name in enumerate(names)}
    marks = [(shortened(name), at[name]) for name in names] if len(names) <= _MAX_NAMES else []
    return [at[str(value)] for value in column.values], marks
