"""The plots of the reports: bars, lines and dots, squares, parallel coordinates. Each is one SVG element."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Scale,
    element,
    frame,
    line,
    marker,
    path,
    picture,
    text,
)

# of a character of the number above a bar; a bar that is narrower than its number has none
_CHARACTER = 6.5


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together.

    Attributes:
        name: what they are.
        style: how they look: all, head, medium, tail, student, baseline, teacher or other, and ``dashed`` after it.
        points: (x, y); those that are not finite are left out.
        names: of the points, shown when pointed at.
    """

    name: str
    style: str
    points: tuple[tuple[float, float], ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One bar in each category; a value that is not finite has none."""

    name: str
    style: str
    values: tuple[float, ...]


def line_chart(
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    description: str,
    *,
    lines: bool = True,
    dots: bool = True,
    diagonal: bool = False,
    zero: bool = False,
) -> Markup:
    """Lines with dots, lines alone, or dots alone.

    Args:
        series: what is drawn.
        x_axis: below.
        y_axis: at the left.
        description: the sentence that stands for the plot.
        lines: whether the points of a series are joined.
        dots: whether they are marked.
        diagonal: also draw where y equals x.
        zero: also draw where y is 0.
    """
    x = Scale.of(x_axis, (p[0] for s in series for p in s.points), LEFT, WIDTH - RIGHT)
    y = Scale.of(y_axis, (p[1] for s in series for p in s.points), HEIGHT - BOTTOM, TOP + 8)
    parts = [frame(x, y, x_axis, y_axis)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(line(x(low), y(low), x(high), y(high), "guide"))
    if zero:
        parts.append(line(x.start, y(0), x.stop, y(0), "guide"))
    for each in series:
        shown = [(place, point) for place, point in enumerate(each.points) if _drawable(point, x, y)]
        if lines:
            parts.append(path([_at(point, x, y) for point in each.points], f"line {each.style}", each.name))
        if dots:
            for place, point in shown:
                name = each.names[place] if each.names else each.name
                title = f"{name}: {x_axis.text(point[0])}, {y_axis.text(point[1])}"
                parts.append(marker(*_at(point, x, y), each.style.split()[0], title))
    return picture(description, *parts)


def bar_chart(categories: Sequence[str], bars: Sequence[Bars], y_axis: Axis, description: str) -> Markup:
    """Groups of bars from 0, with their values above them where there is room."""
    values = [0.0, *(value for each in bars for value in each.values)]
    y = Scale.of(y_axis, values, HEIGHT - BOTTOM + 14, TOP + 18)
    x = Scale(low=0, high=len(categories), start=LEFT, stop=WIDTH - RIGHT)
    parts = [frame(x, y, None, y_axis)]
    width = min(0.8 / len(bars), 0.36)
    labels = {value: _bare(value, y_axis) for value in values if math.isfinite(value)}
    labelled = x(width) - x(0) >= _CHARACTER * max(map(len, labels.values()))
    for place, category in enumerate(categories):
        parts.append(text(category, x(place + 0.5), y.start + 17, class_="category"))
        for number, each in enumerate(bars):
            value = each.values[place]
            if not math.isfinite(value):
                continue
            left = x(place + 0.5 + (number - len(bars) / 2) * width)
            top, bottom = sorted((y(value), y(0)))
            title = element("title", f"{each.name}, {category}: {y_axis.text(value)}")
            parts.append(
                element(
                    "rect", title, x=left + 1, y=top, width=x(width) - x(0) - 2, height=max(bottom - top, 0.5),
                    class_=f"bar {each.style}",
                )
            )  # fmt: skip
            if labelled:
                parts.append(text(labels[value], left + (x(width) - x(0)) / 2, top - 4, class_="value"))
    return picture(description, *parts)


def legend(
    drawn: Sequence[Series] | Sequence[Bars], *, lines: bool = True, dots: bool = True
) -> tuple[tuple[str, Markup], ...]:
    """The name and a sample of each; ``lines`` and ``dots`` as they were drawn."""
    samples = []
    for each in drawn:
        if isinstance(each, Bars):
            parts = [element("rect", x=9, y=1, width=10, height=10, class_=f"bar {each.style}")]
        else:
            parts = [line(1, 6, 27, 6, f"line {each.style}")] if lines else []
            parts += [marker(14, 6, each.style.split()[0])] if dots else []
        samples.append((each.name, element("svg", *parts, viewBox="0 0 28 12", aria_hidden="true")))
    return tuple(samples)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], titles: tuple[str, str],
    description: str,
) -> Markup:  # fmt: skip
    """Squares, the darker the larger their fraction, with the fraction in each.

    Args:
        rows: their names, from above.
        columns: their names.
        values: fractions from 0 to 1; those that are not finite are left empty.
        titles: of the rows and of the columns.
        description: the sentence that stands for the plot.
    """
    left, top, cell = 92.0, 40.0, (WIDTH - 92.0 - RIGHT) / len(columns)
    height = min(cell, 56.0)
    parts = [
        text(titles[1], left + cell * len(columns) / 2, 12, class_="axis-title"),
        text(titles[0], 4, 12, anchor="start", class_="axis-title"),
    ]
    parts += [text(name, left + cell * (place + 0.5), top - 8, class_="category") for place, name in enumerate(columns)]
    for place, (name, line_) in enumerate(zip(rows, values, strict=True)):
        y = top + place * height
        parts.append(text(name, left - 10, y + height / 2 + 4, anchor="end", class_="category"))
        for column, value in enumerate(line_):
            shade = f"cell shade-{round(10 * value)}" if math.isfinite(value) else "cell"
            title = element("title", f"{name}, {columns[column]}: {_percent(value)}")
            parts.append(
                element(
                    "rect", title, x=left + column * cell + 1, y=y + 1, width=cell - 2, height=height - 2, class_=shade
                )
            )
            parts.append(text(_percent(value), left + (column + 0.5) * cell, y + height / 2 + 4, class_="cell-value"))
    return picture(description, *parts, height=top + height * len(rows) + 8)


def _drawable(point: tuple[float, float], x: Scale, y: Scale) -> bool:
    return all(
        math.isfinite(value) and (value > 0 or not scale.log) for value, scale in zip(point, (x, y), strict=True)
    )


def _at(point: tuple[float, float], x: Scale, y: Scale) -> tuple[float, float]:
    return (x(point[0]), y(point[1])) if _drawable(point, x, y) else (math.nan, math.nan)


def _bare(value: float, axis: Axis) -> str:
    """A number above a bar: short, its unit is at the axis."""
    digits = 3 if axis.percent and value >= 0.01 else 2
    return axis.text(float(f"{value:.{digits}g}")).removesuffix(" %")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "none"
