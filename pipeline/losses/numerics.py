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

from ...stores.codecs.top import LARGEST_TEMPERATURE, SMALLEST_TEMPERATURE
from ...stores.errors import UsageError

ResultT = TypeVar("ResultT")

_LARGEST_FACTOR = 1e6


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


def log_softmaxes(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``log softmax(z / T)`` of the student and of the teacher, (B, C) both; no gradient flows into the teacher.

    To be called within :func:`full_precision`.
    """
    dtype = compute_dtype(student_logits)
    log_student = (student_logits.to(dtype) / temperature).log_softmax(1)
    log_teacher = (teacher_logits.detach().to(dtype) / temperature).log_softmax(1)
    return log_student, log_teacher


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


def check_labels(where: str, labels: Tensor, student_logits: Tensor) -> None:
    """One class id for each sample, within the classes (looked for in CPU tensors only).

    Raises:
        UsageError: they are not that.
    """
    check_integers(where, "labels", labels)
    batch, num_classes = student_logits.shape
    if labels.shape != (batch,):
        raise UsageError(
            f"{where}: labels has shape {tuple(labels.shape)} for student_logits of shape "
            f"{(batch, num_classes)}. Give one class id per sample."
        )
    check_class_ids(where, "labels", labels, num_classes)


def check_class_ids(where: str, name: str, ids: Tensor, num_classes: int) -> None:
    """Integers of any shape must be classes of the student (looked for in CPU tensors only, outside of a graph).

    Raises:
        UsageError: they are not.
    """
    # elsewhere, looking would make every step wait for the device; a compiled graph would break here
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in ids.long().aminmax())
        if low < 0 or high >= num_classes:
            raise UsageError(
                f"{where}: {name} holds class ids from {low} to {high}, the student has {num_classes} classes. "
                "Give ids from 0; check that store and student agree on the classes."
            )


def check_per_class(where: str, name: str, tensor: Tensor, student_logits: Tensor) -> None:
    """One number for each class: (C,).

    Raises:
        UsageError: another shape.
    """
    if tensor.shape != student_logits.shape[1:]:
        raise UsageError(
            f"{where}: {name} has shape {tuple(tensor.shape)}, the student has {student_logits.shape[1]} classes. "
            "Give one number per class."
        )


def check_positive(where: str, name: str, value: float) -> None:
    """The number must be finite and above 0.

    Raises:
        UsageError: it is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{where}: {name} is {value}. Give a finite number above 0.")


def check_scale(where: str, name: str, value: float) -> None:
    """A number that logits or scores are divided by, such as a temperature: from 0.01 to 1000, as in stores.

    Raises:
        UsageError: it is not.
    """
    if not SMALLEST_TEMPERATURE <= value <= LARGEST_TEMPERATURE:  # NaN compares false
        raise UsageError(
            f"{where}: {name} is {value}. Give a number from {SMALLEST_TEMPERATURE:g} to {LARGEST_TEMPERATURE:g}."
        )


def check_exponent(where: str, name: str, value: float) -> None:
    """A number of either sign, of at most a million.

    Raises:
        UsageError: it is not.
    """
    if not abs(value) <= _LARGEST_FACTOR:
        raise UsageError(f"{where}: {name} is {value}. Give a number from {-_LARGEST_FACTOR:g} to {_LARGEST_FACTOR:g}.")


def check_weight(where: str, name: str, value: float) -> None:
    """A factor: from 0 to a million.

    Raises:
        UsageError: it is not.
    """
    if not 0 <= value <= _LARGEST_FACTOR:
        raise UsageError(f"{where}: {name} is {value}. Give a number from 0 to {_LARGEST_FACTOR:g}.")


def at_least_one(where: str, class_counts: Tensor, student_logits: Tensor) -> Tensor:
    """The training samples of each class, (C,) floating point; a class without samples counts as one (kdpipe's choice).

    So a class that happens to be missing from the training data has a finite prior and a finite weight.

    Raises:
        UsageError: not one number per class, or one below 0.
    """
    check_per_class(where, "class_counts", class_counts, student_logits)
    lowest = _lowest(class_counts)
    if not lowest >= 0:
        raise UsageError(f"{where}: class_counts holds {lowest}. Give the training samples of each class, 0 or above.")
    return class_counts.to(compute_dtype(student_logits)).clamp_min(1)


def log_class_mass(where: str, class_mass: Tensor, student_logits: Tensor) -> Tensor:
    """The logarithm of the teacher's mass of each class, (C,), in the precision of the student's computation.

    Raises:
        UsageError: not one number per class, or one that is not above 0.
    """
    check_per_class(where, "class_mass", class_mass, student_logits)
    lowest = _lowest(class_mass)
    if not lowest > 0:
        raise UsageError(
            f"{where}: class_mass holds {lowest}: the teacher gives a class nothing at this temperature. "
            "Give masses above 0; a higher temperature makes them so."
        )
    return class_mass.log().to(compute_dtype(student_logits))


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


@remember
def _lowest(numbers: Tensor) -> float:
    """The lowest number; NaN where there is one."""
    return float(numbers.min())
