"""The payload as plain Zarr v3: metadata documents made by zarr-python, chunk files as C-order bytes, or compressed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..arrays import AXES, ArrayInfo, ConstantInfo
from ..codecs.compression import HEADER_BYTES, compress, decompress, zarr_codec
from ..errors import CorruptStoreError, UsageError
from ..layout import PAYLOAD
from ..manifest import Manifest

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


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
            fill_value=array.fill_value,
            compressors=[zarr_codec(array.item_bytes)] if manifest.logit_codec.compressed else None,
            filters=None,
            dimension_names=("view", "sample", AXES[array.name]),
        )
    for constant in manifest.constants:
        root.create_array(
            constant.name,
            shape=constant.shape,
            chunks=constant.shape,
            dtype="float32",
            fill_value=float("nan"),
            compressors=None,
            filters=None,
            dimension_names=constant.axes,
        )
    names = ["zarr.json", *(f"{array.name}/zarr.json" for array in (*manifest.arrays, *manifest.constants))]
    return {f"{PAYLOAD}/{name}": documents[name].to_bytes() for name in names}


def payload_store_id(root: Path) -> str | None:
    """The store id that the payload's metadata carries; None where there is no such payload."""
    try:
        document = msgspec.json.decode((root / PAYLOAD / "zarr.json").read_bytes(), type=dict[str, Any])
        return document["attributes"]["kdpipe"]["store_id"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None


def chunk_bytes(array: ArrayInfo, values: np.ndarray, chunk_rows: int, *, compressed: bool = False) -> memoryview:
    """The bytes of one chunk file: the rows as stored (little endian), padded to a full chunk.

    Args:
        array: which array.
        values: (rows, width), castable to the array's dtype.
        chunk_rows: R, rows of a full chunk.
        compressed: whether the file is compressed.
    """
    dtype = np.dtype(array.dtype).newbyteorder("<")
    if len(values) == chunk_rows:
        full = np.ascontiguousarray(values, dtype=dtype)
    else:
        full = np.full((chunk_rows, array.width), array.fill_value, dtype=dtype)
        full[: len(values)] = values
    data = full.data.cast("B")
    return memoryview(compress(data, array.item_bytes)) if compressed else data


def read_compressed(path: Path, array: ArrayInfo, chunk_rows: int) -> np.ndarray:
    """The rows (R, width) of a compressed chunk file.

    Raises:
        CorruptStoreError: it cannot be read, or is no compressed chunk of this array.
    """
    num_bytes = chunk_rows * array.row_bytes
    try:
        if (size := path.stat().st_size) > num_bytes + HEADER_BYTES:
            raise CorruptStoreError(f"{path} has {size} bytes, more than uncompressed. Restore this chunk.")
        data = path.read_bytes()
    except OSError as error:
        raise CorruptStoreError(f"{path} cannot be read ({error.strerror}). Restore this chunk.") from None
    chunk = decompress(data, num_bytes, str(path))
    return chunk.view(np.dtype(array.dtype).newbyteorder("<")).reshape(chunk_rows, array.width)


def constant_file(constant: ConstantInfo) -> str:
    """The path of an array that is stored once: Zarr's key of its only chunk."""
    return "/".join([PAYLOAD, constant.name, "c", *("0" for _ in constant.shape)])


def constant_documents(manifest: Manifest, values: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The files of the arrays that are stored once, by their path in the store.

    Raises:
        UsageError: one is not given, or has another shape.
    """
    documents = {}
    for constant in manifest.constants:
        array = values.get(constant.name)
        if array is None or array.shape != constant.shape:
            shape = None if array is None else array.shape
            raise UsageError(f"The store needs '{constant.name}' of shape {constant.shape}, not {shape}.")
        documents[constant_file(constant)] = array.astype("<f4").tobytes()
    return documents


def read_constant(root: Path, constant: ConstantInfo) -> np.ndarray:
    """An array that is stored once, float32.

    Raises:
        CorruptStoreError: it cannot be read, or has another size.
    """
    path = root / constant_file(constant)
    try:
        size = path.stat().st_size
        if size != constant.num_bytes:
            raise CorruptStoreError(f"{path} has {size} bytes instead of {constant.num_bytes}. Restore it.")
        return np.fromfile(path, "<f4").reshape(constant.shape)
    except OSError as error:
        raise CorruptStoreError(f"{path} cannot be read ({error.strerror}). Restore it.") from None
