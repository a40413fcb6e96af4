"""The logit store: format, write, read, stream, verify, share. Imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import ArrayInfo
    from .errors import (
        BadLogitsError,
        BadSampleError,
        CorruptStoreError,
        KdpipeError,
        MismatchError,
        MissingArrayError,
        MissingExtraError,
        RefusedError,
        UsageError,
    )
    from .join import JoinedDataset
    from .manifest import Accuracy, Manifest, Receipt
    from .reader import Store, open_store
    from .streaming import BatchSampler, epoch_order
    from .writer import StoreWriter

__all__ = [
    "Accuracy",
    "ArrayInfo",
    "BadLogitsError",
    "BadSampleError",
    "BatchSampler",
    "CorruptStoreError",
    "JoinedDataset",
    "KdpipeError",
    "Manifest",
    "MismatchError",
    "MissingArrayError",
    "MissingExtraError",
    "Receipt",
    "RefusedError",
    "Store",
    "StoreWriter",
    "UsageError",
    "epoch_order",
    "open_store",
]

_HOMES = {
    "arrays": {"ArrayInfo"},
    "join": {"JoinedDataset"},
    "manifest": {"Accuracy", "Manifest", "Receipt"},
    "reader": {"Store", "open_store"},
    "streaming": {"BatchSampler", "epoch_order"},
    "writer": {"StoreWriter"},
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: ``kdpipe --help`` must not wait for NumPy and Arrow."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value
