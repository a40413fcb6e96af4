"""Inject faults into kdpipe and write docs/reliability.md with what happened.

Usage: python benchmarks/faults [--quick | --steps]   (make faults)

--quick does less of each and writes no page; --steps does only the kills at every step of writing a file. Exits with 1
if anything did not hold.
"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import engines
import environment
import extraction
import fuzz
import training
from children import Row

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> None:
    quick = "--quick" in sys.argv
    torch.set_num_threads(1)  # before any work: a forked child cannot use the threads of its parent
    started = time.perf_counter()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extraction.prepare(folder)
        sys.path.insert(0, name)
        for row in faults(folder, quick=quick):
            print(f"{'held' if row.held else 'FAILED'}  {row.times:>9,}  {row.fault}: {row.outcome}", flush=True)
            rows.append(row)
    minutes = (time.perf_counter() - started) / 60
    if len(sys.argv) == 1:
        PAGE.write_text(page(rows, minutes))
    if not all(row.held for row in rows):
        sys.exit(1)


def faults(folder: Path, *, quick: bool) -> Iterator[Row]:
    """Inject every fault; with ``--steps``, only the kills at every step of a file."""
    yield from extraction.step_kills(folder)
    if "--steps" in sys.argv:
        return
    yield from extraction.step_kills(folder, beside=True)
    yield extraction.random_kills(folder, 10 if quick else 200, processes=1)
    yield extraction.random_kills(folder, 6 if quick else 100, processes=2)
    yield from environment.all_faults(folder, 2.0 if quick else 60.0)
    yield from engines.all_kills(folder, 1 if quick else 5)
    yield training.killed_runs(folder, 3 if quick else 20)
    store = folder / f"reference-{extraction.CHUNK_ROWS}.kd"
    yield fuzz.fuzz(store, folder / "fuzz", 5_000 if quick else 1_000_000)


def page(rows: list[Row], minutes: float) -> str:
    """The report."""
    lines = [
        "# Reliability: faults injected, and what happened",
        "",
        "Written by `make faults` (benchmarks/faults).",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores ({platform.machine()}), {platform.system()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}; {minutes:.0f} minutes.",
        "",
        "| fault | times | what happened |",
        "|---|---|---|",
        *(f"| {row.fault} | {row.times:,} | {row.outcome}{'' if row.held else ' **FAILED**'} |" for row in rows),
        "",
        "Not in this table, but in the tests (`make test`): every file of a store with a flipped bit, truncated to every "
        "power of two, deleted or swapped with another chunk's (tests/stores/checks/test_verify.py); shuffled, shortened, "
        "extended, relabelled and altered data sets, other transforms and class orders (tests/pipeline/test_alignment.py); "
        "NaN, infinite, too large and all-equal logits (tests/cli/test_extract.py).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
