"""What the machine offers: device, precision and batch size where the user leaves them to us."""

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Literal

import torch

from ..stores.errors import UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device a name means; ``auto`` is the first GPU, else the CPU.

    Raises:
        UsageError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"The device '{name}' is not there. Use --device auto, cpu or cuda.") from None
    return device


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
    """Reading processes: none where inputs lie in memory, else one a core, at most 8."""
    return min(8, os.cpu_count() or 1) if decodes else 0
