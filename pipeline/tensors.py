"""What a network is given: one tensor, or several by name, as text models take them.

Shapes: B batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..stores.errors import KdpipeError, UsageError
from .models.weights import first_line

Inputs = Tensor | dict[str, Tensor]


def as_inputs(raw: Any) -> Inputs:
    """A tensor, or tensors by name, from what a data set gives: arrays, numbers and lists of numbers too.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(raw, Mapping):
        return _as_tensor(raw)
    if not raw:
        raise UsageError("The data set gives an empty dictionary, which is no input of a network.")
    return {str(name): _as_tensor(value) for name, value in raw.items()}


def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same with every tensor changed."""
    return change(inputs) if isinstance(inputs, Tensor) else {name: change(value) for name, value in inputs.items()}


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
        return torch.stack(rows)  # pyright: ignore[reportArgumentType]  (all are tensors: their shapes are equal)
    return {name: torch.stack([row[name] for row in rows]) for name in first}  # pyright: ignore[reportArgumentType]


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


def call(module: nn.Module, inputs: Inputs) -> Any:
    """The network's output; named tensors are passed to ``forward`` by keyword."""
    return module(inputs) if isinstance(inputs, Tensor) else module(**inputs)


def unfit(who: str, inputs: Inputs, error: Exception, of_images: str) -> KdpipeError:
    """What to raise where a network cannot take its inputs.

    Args:
        who: the network, at the beginning of a sentence.
        inputs: what it was given.
        error: what it raised.
        of_images: what to look at where the input is one tensor.
    """
    hint = of_images if isinstance(inputs, Tensor) else "Do they have the names that its forward takes?"
    return KdpipeError(f"{who} cannot take inputs of shape {shape_text(inputs)}: {first_line(error)}. {hint}")


def _as_tensor(value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"The data set gives a {type(value).__name__} ({error}), which is no input of a network. Give images, "
            "tensors, arrays, or dictionaries of these."
        ) from None
