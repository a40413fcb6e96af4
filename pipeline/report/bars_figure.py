"""A figure of shares side by side: one series of bars for each thing compared."""

from collections.abc import Sequence

from .page import Figure, Table
from .plots import Bars, bar_chart, legend
from .svg import Axis
from .words import percent


def bars_figure(
    names: Sequence[str],
    bars: Sequence[Bars],
    axis: Axis,
    *,
    title: str,
    conclusion: str,
    head: str,
    description: str | None = None,
) -> Figure:
    """Bars by category, and the same numbers in percent as a table.

    Args:
        names: the categories.
        bars: of each thing, one value a category.
        axis: of the values.
        title: of the figure.
        conclusion: what follows from it.
        head: what the categories are, over their column of the table.
        description: the plot in words; by default the conclusion.
    """
    return Figure(
        title=title,
        conclusion=conclusion,
        plot=bar_chart(names, bars, axis, description or conclusion),
        legend=legend(bars),
        table=Table(
            head=(head, *(each.name for each in bars)),
            rows=tuple((name, *(percent(each.values[at], 2) for each in bars)) for at, name in enumerate(names)),
        ),
    )
