"""What a page is made of, and how it becomes one self-contained HTML file: no script, no font, no request."""

import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ... import __version__
from .words import NONE

# as the tables write them: with a unit, with a spread, or none
_NUMBER = re.compile(rf"[-+]?[\d.,]+(e[-+]?\d+)?( ± [\d.]+)?( [%kMG])?|{NONE}|")


@dataclass(frozen=True, kw_only=True)
class Table:
    """The numbers of a figure, as they are to be read.

    Attributes:
        head: names of the columns; the first names the rows.
        rows: the cells, as text.
        anchors: of the rows, where something on the page leads to them.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    anchors: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[bool, ...]:
        """Of each column, whether it has words and not only numbers: it is then read from its left."""
        return tuple(any(not _NUMBER.fullmatch(row[place]) for row in self.rows) for place in range(len(self.head)))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot, what to conclude from it, and its numbers.

    Attributes:
        title: what it shows.
        conclusion: one or two sentences.
        plot: the SVG element.
        legend: (name, sample) of what is drawn.
        table: the numbers behind it.
        wide: whether it takes the whole width of the page.
    """

    title: str
    conclusion: str
    plot: Markup
    table: Table
    legend: tuple[tuple[str, Markup], ...] = ()
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """Figures that answer one question.

    Attributes:
        key: its anchor.
        title: the heading.
        text: what is measured, and how.
        conclusion: what follows, where no figure says it.
        figures: the plots.
        notes: what could not be told, and why.
        table: a table that is shown as such.
    """

    key: str
    title: str
    text: str = ""
    conclusion: str = ""
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report.

    Attributes:
        kind: "store", "run" or "sweep".
        title: its name.
        notice: what a reader must know first, such as that the store is not finished.
        conclusions: the sentences of the whole report, most important first.
        facts: (name, value): what this is about.
        sections: the rest.
    """

    kind: str
    title: str
    notice: str = ""
    conclusions: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """All that its head says: the notice, and the conclusions."""
        return (self.notice, *self.conclusions) if self.notice else self.conclusions


def render(page: Page) -> str:
    """The HTML of a page. The same page gives the same bytes; everything but plots is escaped."""
    from jinja2 import Environment, StrictUndefined  # only reports wait for it

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_keep_units
    )
    here = Path(__file__)
    template = environment.from_string(here.with_name("page.html").read_text(encoding="utf-8"))
    style = Markup(here.with_name("page.css").read_text(encoding="utf-8"))  # noqa: S704 (our own file)
    return template.render(page=page, style=style, version=__version__) + "\n"


def _keep_units(value: object) -> object:
    """A number and its percent sign stay on one line, and so does a temperature."""
    if type(value) is not str:
        return value
    return value.replace(" %", "\N{NO-BREAK SPACE}%").replace("T = ", "T\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
