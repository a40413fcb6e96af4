"""The parts that plots are made of: scales, ticks, escaped SVG elements, axes.

Plots are SVG with CSS classes and no colours of their own: the page's style sheet gives them, light or dark. There is
no script. A page of plots then has tens of kilobytes where a plotting library in JavaScript adds megabytes; its text is
text, which can be read aloud, searched, selected and printed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# the width that all plots are drawn at; a phone shows them at about 0.85 of it, a wide page at about 1.15
WIDTH = 420
HEIGHT = 260
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 16, 42
# of the length of a logarithmic axis, at either end
_EDGE = 0.03


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a plot.

    Attributes:
        title: what it measures, with its unit.
        low: its first value; by default the data's.
        high: its last; by default the data's.
        log: whether it is logarithmic; only values above 0 are then drawn.
        percent: whether values are fractions from 0 to 1, told in percent.
        ticks: where it is marked; by default at round numbers.
        names: of the values 0, 1, ... where it has no numbers but kinds.
    """

    title: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    percent: bool = False
    ticks: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()

    def text(self, value: float) -> str:
        """A value as it is written at the axis."""
        if self.names:
            return shortened(self.names[round(value)])
        return f"{_plain(100 * value)} %" if self.percent else _plain(value)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to places on the page."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def of(cls, axis: Axis, values: Iterable[float], start: float, stop: float) -> "Scale":
        """The scale of an axis that shows these values, those that cannot be drawn aside."""
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not axis.log)]
        low = min(shown, default=1.0) if axis.low is None else axis.low
        high = max(shown, default=2.0) if axis.high is None else axis.high
        if high <= low:
            low, high = (low / 2, low * 2) if axis.log else (low - 0.5, low + 0.5)
        if axis.percent:
            low, high = max(low, 0.0), min(high, 1.0)
        if axis.log:  # no mark on the other axis
            edge = (high / low) ** _EDGE
            low, high = low / edge, high * edge
        elif axis.ticks is None:
            step = _step(low, high)
            low = math.floor(low / step) * step if axis.low is None else low
            high = math.ceil(high / step - 1e-9) * step if axis.high is None else high
        return cls(low=low, high=high, start=start, stop=stop, log=axis.log)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the scale."""
        if self.log:
            return _log_ticks(self.low, self.high)
        return _even_ticks(self.low, self.high)


def element(name: str, *content: object, **attributes: object) -> Markup:
    """An SVG or HTML element; content and attributes are escaped. ``class_`` is written class, ``_`` as a hyphen."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(value)
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{shown}"')
    return Markup("".join(parts) + ">" + "".join(escape(part) for part in content) + f"</{name}>")  # noqa: S704 (escaped above)


def picture(
    description: str, *content: object, height: float = HEIGHT, width: float = WIDTH, role: str = "img"
) -> Markup:
    """A whole plot, with the sentence that stands for it."""
    return element(
        "svg", *content, role=role, aria_label=description, viewBox=f"0 0 {width:.0f} {height:.0f}", class_="plot",
        xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


def text(content: object, x: float, y: float, *, anchor: str = "middle", class_: str = "label") -> Markup:
    """A piece of text."""
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str, title: str = "") -> Markup:
    """Lines from point to point, broken where one is not finite."""
    commands, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        commands.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return element("path", *([element("title", title)] if title else []), d="".join(commands), class_=class_)


def marker(x: float, y: float, style: str, title: str = "") -> Markup:
    """A mark whose shape, not only its colour, says what it belongs to."""
    shapes = {
        "medium": f"M{x - 3.4:.1f} {y - 3.4:.1f}h6.8v6.8h-6.8z",
        "tail": f"M{x:.1f} {y - 4.4:.1f}l4.4 7.6h-8.8z",
        "other": f"M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
    }
    content = [element("title", title)] if title else []
    if style in shapes:
        return element("path", *content, d=shapes[style], class_=f"mark {style}")
    return element("circle", *content, cx=x, cy=y, r=3.6, class_=f"mark {style}")


def frame(x: Scale, y: Scale, x_axis: Axis | None, y_axis: Axis) -> Markup:
    """Grid lines, ticks and titles of two axes; categories have no axis below."""
    parts = []
    for value in _marks(y, y_axis):
        parts += [
            line(x.start, y(value), x.stop, y(value), "grid"),
            text(y_axis.text(value), x.start - 6, y(value) + 4, anchor="end"),
        ]
    for value, name in [(value, x_axis.text(value)) for value in _marks(x, x_axis)] if x_axis else []:
        parts += [
            line(x(value), y.start, x(value), y.start + 4, "tick"),
            text(name, x(value), y.start + 17),
        ]
    parts += [
        line(x.start, y.start, x.stop, y.start, "axis"),
        _titles(x, y, x_axis.title if x_axis else "", y_axis.title),
    ]
    return Markup().join(parts)


def shortened(name: str, length: int = 20) -> str:
    """A long name without its middle."""
    half = length // 2 - 1
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def _marks(scale: Scale, axis: Axis) -> Sequence[float]:
    return axis.ticks or ([float(place) for place in range(len(axis.names))] if axis.names else scale.ticks())


def _titles(x: Scale, y: Scale, x_title: str, y_title: str) -> Markup:
    below = text(x_title, (x.start + x.stop) / 2, y.start + 34, class_="axis-title") if x_title else ""
    above = text(y_title, 4, 11, anchor="start", class_="axis-title") if y_title else ""
    return Markup().join([below, above])


def _step(low: float, high: float) -> float:
    """The distance of about five round ticks."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [f * 10.0**d for d in decades for f in factors if low * 0.999 <= f * 10.0**d <= high * 1.001]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 7)]
    return _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Round values at even distances."""
    step = _step(low, high)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _plain(value: float) -> str:
    """A number at an axis: short, without needless zeros."""
    if abs(value) >= 10_000:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:.3g} {letter}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"
