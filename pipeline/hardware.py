"""What the machine offers: device, precision and batch size where the user leaves them to us."""

import contextlib
import ctypes
import os
from contextlib import AbstractContextManager
from typing import Literal

import torch

from ..stores.errors import UsageError
from .ranks import Ranks

Precision = Literal["auto", "fp32", "bf16", "fp16"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# 2 GiB less 1 byte, the largest int; older versions take no more than 32 MiB
_THRESHOLDS = (2**31 - 1, 2**25)

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device a name means; ``auto`` is a GPU, else the CPU.

    Under torchrun, ``auto`` and ``cuda`` are each rank's own GPU.

    Raises:
        UsageError: torch knows no such device, or this machine has none, or fewer GPUs than ranks.
    """
    if name == "auto":
        return _own_gpu() if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        there = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise UsageError(f"The device '{name}' is not there. Use --device {there}.") from None
    return _own_gpu() if device == torch.device("cuda") else device


def pick_precision(name: Precision, device: torch.device, *, on_gpu: str) -> str:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` is ``on_gpu`` on a GPU and fp32 elsewhere.

    Training takes bf16 there. A teacher takes fp16, because stored logits keep 11 significant bits and bf16 would
    compute only 8 of them; where fp16 overflows, extraction refuses the logits and names --precision fp32.
    """
    if name != "auto":
        return name
    return on_gpu if device.type == "cuda" else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast context of a precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def pick_batch_size(num_elements: int, device: torch.device) -> int:
    """A batch size for inputs of ``num_elements`` numbers: about 2 M numbers a batch on a CPU, 16 times that on a GPU.

    On a CPU larger batches gain nothing once the activations leave the cache.
    """
    budget = 2**25 if device.type == "cuda" else 2**21
    largest = 1024
    batch_size = 8
    while batch_size * 2 * num_elements <= budget and batch_size < largest:
        batch_size *= 2
    return batch_size


def pick_workers(decodes: bool) -> int:
    """Reading processes: none where inputs lie in memory, else one a core (shared by torchrun's ranks), at most 8."""
    cores = (os.cpu_count() or 1) // Ranks.from_environment().local_size
    return min(8, max(cores, 1)) if decodes else 0


def keep_large_buffers() -> bool:
    """Let this process keep the memory it frees, so that the next batch's activations find it there.

    By default glibc maps every buffer of more than 32 MiB anew and gives it back when it is freed, so that a network
    on the CPU waits for the kernel to zero its pages in every layer of every batch. This sets both of malloc's
    thresholds, as the variables ``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_`` would, for the whole process
    and for the processes it forks, until it ends.

    The price is memory: the process keeps the most that it ever held, somewhat more where freed blocks do not fit
    together, and what other libraries free in it is not given back either.

    Does nothing where another C library is used, or where the user has set a variable ``MALLOC_...`` or
    ``GLIBC_TUNABLES``: these are theirs to decide.

    Returns:
        Whether the thresholds are set now.
    """
    if not _is_glibc() or "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    # it returns 1 where it takes the value
    return all(
        any(mallopt(parameter, value) for value in _THRESHOLDS) for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    )


def round_off(precision: str, on_cpu: bool) -> float:
    """How far a number computed again may be off, as a fraction of the largest beside it.

    Other batch sizes, threads and devices add up in another order. On a GPU even fp32 convolutions round to 11 bits
    (TF32).
    """
    if precision == "fp32":
        return 1e-4 if on_cpu else 5e-3
    return {"fp16": 1e-2}.get(precision, 5e-2)


def _own_gpu() -> torch.device:
    """The first GPU; under torchrun the one of this rank's number."""
    ranks, count = Ranks.from_environment(), torch.cuda.device_count()
    if ranks.alone:
        return torch.device("cuda")
    if ranks.local_size > count:
        raise UsageError(
            f"torchrun started {ranks.local_size} processes here, and there are {count} GPUs. "
            f"Start one a GPU: --nproc-per-node={count}."
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # Windows; musl; macOS
        return False
