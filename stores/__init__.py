"""The logit store: format, write, read, stream, verify, share. Imports no torch."""

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
from .manifest import Accuracy, ArrayInfo, Manifest, Receipt
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
