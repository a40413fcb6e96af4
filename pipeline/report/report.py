"""A report of whatever a path is: what is computed -> the page -> one HTML file.

store  -> sample tables, payload, comparison -> store page
run    -> metrics, results by class          -> run page
sweep  -> its table of trials                -> sweep page
"""

from dataclasses import dataclass
from pathlib import Path

from ...stores import RefusedError, UsageError
from ...stores.codecs.top import LARGEST_TEMPERATURE, SMALLEST_TEMPERATURE
from ...stores.files import write_file
from ...stores.layout import MANIFEST
from ...stores.remote.location import is_url
from ..sweep.table import TABLE
from ..training.run_folder import CONFIG, METRICS
from .page import Page, render
from .run_page import run_page
from .run_report import RunReport, report_run
from .store_page import store_page
from .store_report import StoreReport, report_store
from .sweep_page import sweep_page
from .sweep_report import SweepReport, report_sweep

_OPTIONS = {"store": {"against", "temperatures"}, "run": {"baseline", "store"}, "sweep": set()}


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What to report.

    Attributes:
        path: a store (also its address), a run's folder or a sweep's.
        out: the HTML file; None for the numbers alone.
        against: another store to compare a store with.
        temperatures: at which a store's masses and divergences are told; by default 1 and 4.
        baseline: another run to compare a run with.
        store: of a teacher to compare a run with.
    """

    path: Path | str
    out: Path | None = None
    against: Path | str | None = None
    temperatures: tuple[float, ...] = ()
    baseline: Path | None = None
    store: Path | str | None = None

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--out {self.out} does not end in .html. A report is an HTML file.")
        for temperature in self.temperatures:
            if not SMALLEST_TEMPERATURE <= temperature <= LARGEST_TEMPERATURE:  # NaN compares false
                bounds = f"{SMALLEST_TEMPERATURE:g} and {LARGEST_TEMPERATURE:g}"
                raise UsageError(f"The temperature {temperature:g} is not between {bounds}.")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report: of what kind, its numbers, and what it concludes.

    Attributes:
        kind: "store", "run" or "sweep".
        numbers: all of them.
        conclusions: the sentences at the head of the page: what a reader must know first, and what follows.
        out: the page, where one was written.
    """

    kind: str
    numbers: StoreReport | RunReport | SweepReport
    conclusions: tuple[str, ...]
    out: Path | None


def report(config: ReportConfig) -> Report:
    """Look at a store, a run or a sweep, and write its page.

    Raises:
        RefusedError: the path is none of these, or there is nothing in it yet.
        UsageError: an option that does not belong to what the path is.
        KdpipeError: see the classes in :mod:`kdpipe.stores.errors`.
    """
    kind = kind_of(config.path)
    _check_options(config, kind)
    numbers, page = _PAGES[kind](config)
    if config.out is not None:
        out = config.out.absolute()
        write_file(out.parent, out.name, render(page).encode())
    return Report(kind=kind, numbers=numbers, conclusions=page.said, out=config.out)


def kind_of(path: Path | str) -> str:
    """What a path is: "store", "run" or "sweep".

    Raises:
        RefusedError: none of these.
    """
    if is_url(path):
        return "store"
    root = Path(path)
    found = {"store": root / MANIFEST, "sweep": root / TABLE, "run": root / METRICS}
    for kind, file in found.items():
        if file.is_file():
            return kind
    if (root / CONFIG).is_file():
        raise RefusedError(f"{root} has no finished epoch or trial yet: there is nothing to report.")
    raise RefusedError(f"{root} is no store, run or sweep: it has no {MANIFEST}, {METRICS} or {TABLE}.")


def _check_options(config: ReportConfig, kind: str) -> None:
    for name in ("against", "temperatures", "baseline", "store"):
        if getattr(config, name) and name not in _OPTIONS[kind]:
            flag = name.removesuffix("s")
            takes = ", ".join(f"--{each.removesuffix('s')}" for each in sorted(_OPTIONS[kind])) or "no such option"
            raise UsageError(f"{config.path} is a {kind}, for which --{flag} means nothing. It takes {takes}.")


def _of_store(config: ReportConfig) -> tuple[StoreReport, Page]:
    numbers = report_store(config.path, tuple(dict.fromkeys(config.temperatures)) or (1.0, 4.0), config.against)
    return numbers, store_page(numbers)


def _of_run(config: ReportConfig) -> tuple[RunReport, Page]:
    numbers = report_run(Path(config.path), config.baseline, config.store)
    return numbers, run_page(numbers)


def _of_sweep(config: ReportConfig) -> tuple[SweepReport, Page]:
    numbers = report_sweep(Path(config.path))
    return numbers, sweep_page(numbers)


_PAGES = {"store": _of_store, "run": _of_run, "sweep": _of_sweep}
