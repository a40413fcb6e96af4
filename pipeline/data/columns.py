"""Data sets in Arrow columns: what ``parquet:`` and ``hf:`` have in common.

Shapes: N samples.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from ...stores.errors import BadSampleError, UsageError, unknown
from .folder import read_class_names
from .images import decode_image

RawInput = Image.Image | Tensor


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """Options of data sets in columns.

    Attributes:
        image: the column of image files, or of numbers.
        label: the column of class numbers or class names.
        id: the column of sample ids; by default they say where a row is.
        classes: a text file with the class names in order, one a line; by default the data set's own, else the names
            sorted, or the numbers.
        shape: of the numbers in a cell, channels first.
    """

    image: str = "image"
    label: str = "label"
    id: str | None = None
    classes: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def described(self) -> list[str]:
        """The columns that are read at once, label and id."""
        return [self.label] if self.id in (None, self.label) else [self.label, self.id]

    def check(self, schema: pa.Schema, where: str) -> None:
        """Refuse columns that are not there.

        Raises:
            UsageError: naming the columns that are.
        """
        for name in (self.image, *self.described):
            if name not in schema.names:
                raise unknown(f"column of {where}", name, schema.names)

    def class_names(self, own: Sequence[str] | None) -> Sequence[str] | None:
        """The names in the file ``classes``, else the data set's own."""
        return own if self.classes is None else read_class_names(Path(self.classes))


def cell_reader(kind: pa.DataType, shape: tuple[int, ...] | None, column: str) -> Callable[[Any, str], RawInput]:
    """How a cell of the image column is read: a function of the Arrow scalar and the sample's name.

    Cells are image files (bytes, or Hugging Face's struct of ``bytes`` and ``path``), or numbers, of which whole ones
    are pixels from 0 to 255.

    Args:
        kind: the column's type.
        shape: of the numbers, channels first; two axes get an axis for one channel. None for image files.
        column: its name, for messages.

    Raises:
        UsageError: the type is none of these, or the shape is missing or not wanted.
    """
    numbers = _number_type(kind)
    if numbers is None:
        is_struct = pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind)
        if not (is_struct or _is_binary(kind)):
            raise UsageError(
                f"The column '{column}' holds {kind}: neither image files (bytes) nor lists of numbers. "
                "Name another: image=COLUMN."
            )
        if shape is not None:
            raise UsageError(f"The column '{column}' holds image files, which have their own shape. Leave shape= out.")
        return _read_image
    if shape is None or any(size < 1 for size in shape):
        raise UsageError(f"The column '{column}' holds numbers. Say how they lie, channels first: shape=3,32,32.")
    return partial(_read_numbers, shape=shape, pixels=pa.types.is_integer(numbers))


def labels_of(column: Any, names: Sequence[str] | None, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels (N,) int64 and the class names of a column of class numbers or class names.

    Args:
        column: (N,) an Arrow array.
        names: the classes in order; by default the column's own: names sorted, numbers counted.
        what: the column, for messages.

    Raises:
        UsageError: a label is missing or not among ``names``, or the column holds something else.
    """
    if column.null_count:
        raise UsageError(f"{what} has no label in {column.null_count} of {len(column)} rows. Leave these rows out.")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        labels = column.to_numpy().astype(np.int64)
        counted = range(int(labels.max()) + 1 if len(labels) else 0)
        return labels, tuple(names or map(str, counted))
    if not _is_text(column.type):
        raise UsageError(
            f"{what} holds {column.type}, neither class numbers nor class names. Name another: label=COLUMN."
        )
    names = names or sorted(column.unique().to_pylist())
    numbers = pc.index_in(column, pa.array(names, column.type))  # pyright: ignore[reportAttributeAccessIssue]
    if numbers.null_count:
        strange = column.filter(numbers.is_null())[0].as_py()
        raise unknown(f"class in {what}", strange, names[:50])
    return numbers.to_numpy().astype(np.int64), tuple(names)


def sample_ids_of(column: Any, what: str) -> pa.Array:
    """The sample ids (N,), as text, of a column of texts or whole numbers.

    Raises:
        UsageError: an id is missing, or the column holds something else.
    """
    if column.null_count or not (_is_text(column.type) or pa.types.is_integer(column.type)):
        raise UsageError(
            f"{what} holds {column.type} with {column.null_count} empty cells: sample ids are texts or numbers."
        )
    return column.cast(pa.string()).combine_chunks()


def _read_image(cell: Any, name: str) -> Image.Image:
    content = cell.as_py()
    if isinstance(content, dict):
        content = content["bytes"]
    if content is None:
        raise BadSampleError(f"The sample {name} has no image in it, or only the path of one. Leave it out.")
    return decode_image(io.BytesIO(content), f"The sample {name}")


def _read_numbers(cell: Any, name: str, *, shape: tuple[int, ...], pixels: bool) -> Tensor:
    values = (cell.value if isinstance(cell, pa.ExtensionScalar) else cell).values
    while values is not None and _number_type(values.type) is not None:  # lists of lists, row by row
        values = values.flatten()
    if values is None or values.null_count or len(values) != math.prod(shape):
        count = "no" if values is None else len(values) - values.null_count
        raise BadSampleError(
            f"The sample {name} has {count} numbers, shape={','.join(map(str, shape))} asks for others."
        )
    array = values.to_numpy(zero_copy_only=False)
    if pixels and ((array < 0) | (array > 255)).any():
        raise BadSampleError(
            f"The sample {name} has whole numbers from {array.min()} to {array.max()}, not pixels (0 to 255)."
        )
    tensor = torch.from_numpy(array.astype(np.uint8 if pixels else np.float32)).reshape(shape)
    return tensor[None] if len(shape) == 2 else tensor


def _number_type(kind: pa.DataType) -> pa.DataType | None:
    """The type of the numbers in lists of (lists of) numbers, or None."""
    if isinstance(kind, pa.BaseExtensionType):  # Hugging Face's arrays of fixed shape
        kind = kind.storage_type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list:
        return None
    inner = kind.value_type
    return inner if pa.types.is_integer(inner) or pa.types.is_floating(inner) else _number_type(inner)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
