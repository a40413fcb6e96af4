"""The networks of kdpipe by name: one dict, filled by one decorator."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import nn

from ...stores.errors import UsageError, unknown


class ModelConstructor(Protocol):
    """What is registered: a function from the number of classes and of input channels to a network."""

    def __call__(self, num_classes: int, in_channels: int = 3) -> nn.Module:
        """Build the network; it maps (B, in_channels, H, W) to raw logits (B, num_classes)."""
        ...


_MODELS: dict[str, ModelConstructor] = {}

ConstructorT = TypeVar("ConstructorT", bound=Callable[..., nn.Module])


def register_model(constructor: ConstructorT) -> ConstructorT:
    """Register a constructor under its own function name; use as a decorator."""
    name = constructor.__name__
    if name in _MODELS:
        raise ValueError(f"The model '{name}' is registered twice. Rename one of the two functions.")
    _MODELS[name] = constructor
    return constructor


def model_names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_MODELS)


def create_model(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build a registered network with fresh weights, drawn from torch's global random generator.

    Raises:
        UsageError: the name is not registered (the nearest is suggested), or a count is below 1.
    """
    if name not in _MODELS:
        raise unknown("model", name, model_names())
    for what, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if count < 1:
            raise UsageError(f"The model '{name}' cannot have {what}={count}. Give 1 or more.")
    return _MODELS[name](num_classes, in_channels)
