"""What a network is given: a tensor, or several by name, as text models take them. What is done with either is here.

Shapes: B batch.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..stores.errors import UsageError

Inputs = Tensor | dict[str, Tensor]


def as_inputs(raw: Any) -> Inputs:
    """A tensor, or a dictionary of them, from what a data set gives: arrays, numbers and lists of numbers too.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(raw, Mapping):
        return {str(name): _as_tensor(value) for name, value in raw.items()}
    return _as_tensor(raw)


def stack(rows: Sequence[Inputs]) -> Inputs:
    """Inputs of single samples as a batch.

    Raises:
        ValueError: they differ in names or shapes; the message says how.
    """
    shapes = list(dict.fromkeys(shape_text(row) for row in rows))
    if len(shapes) > 1:
        raise ValueError(f"{shapes[0]} and {shapes[1]}")
    first = rows[0]
    if isinstance(first, Tensor):
        return torch.stack(rows)  # pyright: ignore[reportArgumentType]
    return {name: torch.stack([row[name] for row in rows]) for name in first}  # pyright: ignore[reportArgumentType]


def row_of(inputs: Inputs, index: int) -> Inputs:
    """One sample of a batch."""
    return inputs[index] if isinstance(inputs, Tensor) else {name: value[index] for name, value in inputs.items()}


def num_rows(inputs: Inputs) -> int:
    """B."""
    return len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))


def num_elements(inputs: Inputs) -> int:
    """How many numbers there are."""
    return inputs.numel() if isinstance(inputs, Tensor) else sum(value.numel() for value in inputs.values())


def shape_text(inputs: Inputs) -> str:
    """Their shapes, for messages: ``(8, 3, 32, 32)`` or ``mask (8, 20), tokens (8, 20)``."""
    if isinstance(inputs, Tensor):
        return str(tuple(inputs.shape))
    return ", ".join(f"{name} {tuple(inputs[name].shape)}" for name in sorted(inputs))


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """On a device; copies from pinned memory do not wait."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def pin_memory(inputs: Inputs) -> Inputs:
    """In page-locked memory."""
    if isinstance(inputs, Tensor):
        return inputs.pin_memory()
    return {name: value.pin_memory() for name, value in inputs.items()}


def call(module: nn.Module, inputs: Inputs) -> Any:
    """The network's output.

    Named tensors are passed by keyword where ``forward`` has a parameter of one of the names (or takes any), else as
    one dictionary.
    """
    if isinstance(inputs, Tensor):
        return module(inputs)
    parameters = inspect.signature(module.forward).parameters.values()
    by_keyword = any(one.name in inputs or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    return module(**inputs) if by_keyword else module(inputs)


def _as_tensor(value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"The data set gives {type(value).__name__} ({error}), which is no input of a network. Give images, "
            "tensors or dictionaries of tensors."
        ) from None
