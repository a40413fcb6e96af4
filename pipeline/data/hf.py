"""``hf:DIR,split=train``: a data set that Hugging Face's ``datasets`` saved to disk (extra ``hf``).

Nothing is downloaded and no code of the data set is run: such a folder holds Arrow files and JSON.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...stores.errors import BadSampleError, KdpipeError, UsageError, missing_extra, unknown
from ..specs import Spec
from .columns import ColumnOptions, RawInput, cell_reader, labels_of, sample_ids_of
from .registry import data_source
from .samples import Samples


@dataclass(frozen=True, kw_only=True)
class HfOptions(ColumnOptions):
    """Options of ``hf``: those of every data set in columns, and the split."""

    split: str | None = None


class HfCells:
    """Raw inputs in a column of a ``datasets.Dataset``, whose files are mapped into memory.

    Args:
        rows: the data set in Arrow format, with the column of the images alone.
        read: from a cell and its sample's name to the input.
        names: (N,) the sample ids.
    """

    def __init__(self, rows: Any, read: Callable[[Any, str], RawInput], names: pa.Array) -> None:
        self._rows, self._read, self._names = rows, read, names

    def __getitem__(self, position: int) -> RawInput:
        name = self._names[position].as_py()
        try:
            cell = self._rows[position].column(0)[0]
        except (pa.ArrowException, OSError) as error:
            raise BadSampleError(f"The sample {name} cannot be read ({error}). Save the data set again.") from None
        return self._read(cell, name)


@data_source("hf")
def hf(spec: Spec) -> Samples:
    """A saved data set with a column of images and one of labels; ids are ``SPLIT/ROW`` unless a column has them."""
    options = spec.into(HfOptions)
    dataset, split = _one_split(_load(spec.location), options.split, spec.location)
    schema = dataset.features.arrow_schema
    options.check(schema, spec.location)
    read = cell_reader(schema.field(options.image).type, options.shape, options.image)
    rows = dataset.with_format("arrow")
    table = rows.select_columns(options.described)[:]
    names = options.class_names(getattr(dataset.features[options.label], "names", None))
    labels, class_names = labels_of(
        table.column(options.label), names, f"The column '{options.label}' of {spec.location}"
    )
    if options.id is None:
        ids = pa.array([f"{split}/{row}" if split else str(row) for row in range(len(dataset))], pa.string())
    else:
        ids = sample_ids_of(table.column(options.id), f"The column '{options.id}' of {spec.location}")
    return Samples(
        spec=str(spec),
        items=HfCells(rows.select_columns([options.image]), read, ids),
        indices=np.arange(len(labels)),
        sample_ids=ids,
        labels=labels,
        class_names=class_names,
    )


def _load(location: str) -> Any:
    """A ``datasets.Dataset`` or ``DatasetDict``.

    Raises:
        UsageError: the location is no folder.
        KdpipeError: it holds no saved data set, or a damaged one.
        MissingExtraError: datasets is not installed.
    """
    path = Path(location).expanduser()
    if not location or not path.is_dir():
        raise UsageError(
            f"'{location}' is not a folder. Save the data set first, with "
            "datasets.load_dataset(NAME).save_to_disk(DIR), and write hf:DIR."
        )
    try:
        import datasets  # loads pandas: only where it is asked for
    except ImportError:
        raise missing_extra("hf", "Reading Hugging Face's data sets") from None
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # Arrow's, JSON's and its own
        raise KdpipeError(
            f"{path} cannot be read as a saved data set ({str(error).rstrip('.')}). It is what save_to_disk writes: "
            "save it again."
        ) from error


def _one_split(loaded: Any, wanted: str | None, where: str) -> tuple[Any, str]:
    """One data set, and the name of its split or nothing."""
    if not isinstance(loaded, dict):
        name = str(loaded.split or "")
        if wanted not in (None, name):
            raise UsageError(
                f"{where} is {f'the split {name}' if name else 'one data set without splits'}. Leave split= out."
            )
        return loaded, name
    if wanted is None and len(loaded) > 1:
        raise UsageError(f"{where} has the splits {', '.join(loaded)}. Say which: split={next(iter(loaded))}.")
    name = wanted or next(iter(loaded))
    if name not in loaded:
        raise unknown(f"split of {where}", name, loaded)
    return loaded[name], name
