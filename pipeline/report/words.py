"""Numbers as words on a page."""

import math
from collections.abc import Iterable

NONE = "none"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; ``none`` where there is no number."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of two fractions, in points of percent, with its sign."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:+.1f} points"


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.{digits}g}"


def count(value: int, noun: str) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{value:,} {noun}{'' if value == 1 else 's' if not noun.endswith('s') else 'es'}"


def listed(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
