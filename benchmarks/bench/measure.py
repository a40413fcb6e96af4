"""Measuring side by side: candidates take turns in one run, and only their ratios are told."""

import gc
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def take_turns(
    candidates: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """The seconds of every candidate in every round; each round runs them all, the order reversed every other time.

    Args:
        candidates: what is measured, by name.
        rounds: how often.
        warm_up: run each once before.
    """
    if warm_up:
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        names = list(candidates)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            gc.collect()
            started = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(seconds: Mapping[str, list[float]], of: str, to: str) -> dict[str, float]:
    """The time of one candidate as a multiple of another's, round by round."""
    return spread([one / other for one, other in zip(seconds[of], seconds[to], strict=True)])


@contextmanager
def anonymous_memory() -> Any:
    """The peak of this process's anonymous memory above its start, in bytes: ``peak()`` after the block.

    Mapped files do not count: the system takes their pages back whenever it needs them.
    """
    start, peak, stop = _anonymous(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], _anonymous() - start)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: max(peak[0], 0)
    finally:
        peak[0] = max(peak[0], _anonymous() - start)
        stop.set()
        thread.join()


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function(*args)`` returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
