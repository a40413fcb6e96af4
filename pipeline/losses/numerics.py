"""What every loss shares: the precision it computes in, and the checks of its arguments."""

# Shapes: B batch, C classes.

import contextlib
import functools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...stores.errors import UsageError

ResultT = TypeVar("ResultT")


def compute_dtype(logits: Tensor) -> torch.dtype:
    """float64 stays float64; everything else is computed in float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context in which autocast is off on the tensor's device, so that no operation rounds to half."""
    device_type = tensor.device.type
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum p (log p - log q)`` over the last dimension, from log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def check_logits(where: str, student_logits: Tensor, teacher_logits: Tensor | None = None) -> None:
    """Both must be floating-point (B, C), and of one shape.

    Raises:
        UsageError: they are not.
    """
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        if logits is None:
            continue
        if logits.ndim != 2 or 0 in logits.shape:
            raise UsageError(
                f"{where}: {name} has shape {tuple(logits.shape)}. Give (batch, classes), both at least 1."
            )
        if not logits.is_floating_point():
            raise UsageError(f"{where}: {name} is {logits.dtype}. Give floating-point logits.")
    if teacher_logits is not None and teacher_logits.shape != student_logits.shape:
        raise UsageError(
            f"{where}: teacher_logits has shape {tuple(teacher_logits.shape)}, student_logits "
            f"{tuple(student_logits.shape)}. Give the same samples and the same classes to both."
        )


def check_integers(where: str, name: str, tensor: Tensor) -> None:
    """The tensor must hold integers, of any width.

    Raises:
        UsageError: it holds floating-point, complex or boolean values.
    """
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise UsageError(f"{where}: {name} is {tensor.dtype}. Give integers.")


def check_positive(where: str, name: str, value: float) -> None:
    """The number must be finite and above 0.

    Raises:
        UsageError: it is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{where}: {name} is {value}. Give a finite number above 0.")


def check_weight(where: str, name: str, value: float) -> None:
    """The number must be finite and at least 0.

    Raises:
        UsageError: it is not.
    """
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{where}: {name} is {value}. Give a finite number, 0 or above.")


def remember(function: Callable[[Tensor], ResultT]) -> Callable[[Tensor], ResultT]:
    """Keep what ``function`` says of a tensor for as long as the tensor lives unchanged.

    For tensors that are the same in every step (class groups, store calibration): looking into one that
    lies on an accelerator makes the host wait, which is paid once instead of in every step.
    """
    memory = WeakTensorKeyDictionary()

    @functools.wraps(function)
    def remembered(tensor: Tensor) -> ResultT:
        if tensor.is_inference():  # carries no version: whether it changed cannot be known
            return function(tensor)
        known = memory.get(tensor)
        if known is None or known[0] != tensor._version:
            with torch.inference_mode(False):  # what is kept must also serve a training step
                known = (tensor._version, function(tensor))
            memory[tensor] = known
        return known[1]

    return remembered
