"""How the losses' kernels for processors are compiled, and how they share the rows of a batch among threads."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch

# numbers to work on for which waking another thread pays: it has to take its core from torch's, which wait busily
_WORTH_THREADS = 2**22


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; kept on disk where numba finds a place, else once a process (about two seconds).

    Loops must be plain, and the arrays they work on arguments of their own: so LLVM turns them into vector
    instructions. Sums may be reordered, but nothing is assumed about NaN and infinity.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",  # a check for zero before every division would forbid vector instructions
        "fastmath": {"reassoc", "contract", "arcp", "nsz"},
    }
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder can be written to
        return numba.njit(function, **options)


def share_rows(work: Callable[[int, int], object], num_rows: int, row_cost: int) -> None:
    """Call ``work(start, stop)`` for parts of the rows, in as many threads as torch uses, or here if it is little.

    Args:
        work: done for rows ``start`` to ``stop``.
        num_rows: of the batch.
        row_cost: numbers to work on in a row.
    """
    num_threads = torch.get_num_threads() if num_rows * row_cost > _WORTH_THREADS else 1
    step = max(1, -(-num_rows // num_threads))
    parts = [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
    others = [_threads(os.getpid(), num_threads).submit(work, *part) for part in parts[1:]]
    if parts:
        work(*parts[0])
    for other in others:
        other.result()


@functools.lru_cache(maxsize=1)
def _threads(process: int, num_threads: int) -> ThreadPoolExecutor:  # noqa: ARG001  (a forked process needs its own)
    """Threads of our own: numba's would be a second OpenMP beside torch's, which no fork survives."""
    return ThreadPoolExecutor(num_threads, "kdpipe-losses")
