"""The payload as plain Zarr v3: metadata documents made by zarr-python, chunk files as C-order bytes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from .layout import PAYLOAD
from .manifest import ArrayInfo, Manifest

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

_DIMENSIONS = {"logits": ("view", "sample", "class"), "ranks": ("view", "sample", "rank")}


def fill_value(array: ArrayInfo) -> float | int:
    """What a padded or missing element holds: NaN for logits, the largest id for ranks."""
    return float("nan") if array.name == "logits" else int(np.iinfo(array.dtype).max)


def metadata_documents(manifest: Manifest) -> dict[str, bytes]:
    """The ``zarr.json`` files of the payload, by their path in the store."""
    import zarr  # heavy, and only needed when a store is created
    from zarr.storage import MemoryStore

    documents: dict[str, Buffer] = {}
    root = zarr.create_group(
        MemoryStore(documents), zarr_format=3, attributes={"kdpipe": {"store_id": manifest.store_id}}
    )
    for array in manifest.arrays:
        root.create_array(
            array.name,
            shape=(manifest.num_views, manifest.num_samples, array.width),
            chunks=(1, manifest.chunk_rows, array.width),
            dtype=array.dtype,
            fill_value=fill_value(array),
            compressors=None,
            filters=None,
            dimension_names=_DIMENSIONS[array.name],
        )
    names = ["zarr.json", *(f"{array.name}/zarr.json" for array in manifest.arrays)]
    return {f"{PAYLOAD}/{name}": documents[name].to_bytes() for name in names}


def payload_store_id(root: Path) -> str | None:
    """The store id that the payload's metadata carries; None where there is no such payload."""
    try:
        document = msgspec.json.decode((root / PAYLOAD / "zarr.json").read_bytes(), type=dict[str, Any])
        return document["attributes"]["kdpipe"]["store_id"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None


def chunk_bytes(array: ArrayInfo, values: np.ndarray, chunk_rows: int) -> memoryview:
    """The bytes of one chunk file: the rows as stored (little endian), padded to a full chunk.

    Args:
        array: which array.
        values: (rows, width), castable to the array's dtype.
        chunk_rows: R, rows of a full chunk.
    """
    dtype = np.dtype(array.dtype).newbyteorder("<")
    if len(values) == chunk_rows:
        return np.ascontiguousarray(values, dtype=dtype).data.cast("B")
    full = np.full((chunk_rows, array.width), fill_value(array), dtype=dtype)
    full[: len(values)] = values
    return full.data.cast("B")
