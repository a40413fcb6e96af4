"""``torchvision:NAME`` and ``python:package.module:factory``: any map-style data set of (input, label, ...)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from ...stores.errors import BadSampleError, KdpipeError, MismatchError, UsageError, unknown
from ..factories import call_factory, import_attribute, named_parameters
from ..specs import Spec
from .registry import data_source
from .samples import Samples


class MapItems:
    """Raw inputs that are the first element of a map-style data set's items.

    Attributes:
        labels: what the items' labels must be, (N,); None where nothing is known of them.
    """

    def __init__(self, dataset: Dataset[Any], spec: str) -> None:
        self._dataset, self.spec = dataset, spec
        self.labels: np.ndarray | None = None

    def __getitem__(self, position: int) -> Any:
        """The input of an item.

        Raises:
            BadSampleError: the item cannot be read.
            MismatchError: its label is another than the data set's list of labels says.
        """
        value, label = self._parts(position)
        if self.labels is not None and isinstance(label, int | np.integer) and label != self.labels[position]:
            raise MismatchError(
                f"Item {position} of '{self.spec}' has the label {label}, and the data set's list of labels says "
                f"{self.labels[position]}. Make the two agree."
            )
        return value

    def label(self, position: int) -> int:
        """The label of an item, which is read for it."""
        _, label = self._parts(position)
        try:
            return int(label)
        except (TypeError, ValueError):
            raise UsageError(f"Item {position} of '{self.spec}' has the label {label!r}, not a number.") from None

    def _parts(self, position: int) -> tuple[Any, Any]:
        """The input and the label of an item; None in the place of a label that it has not."""
        try:
            item = self._dataset[position]
            return item[0], item[1] if len(item) > 1 else None
        except Exception as error:  # whatever a foreign data set raises, the sample must be named
            raise BadSampleError(
                f"Item {position} of '{self.spec}' cannot be read ({type(error).__name__}: {error}). "
                "Mend it, or leave it out."
            ) from error


@data_source("torchvision")
def torchvision_dataset(spec: Spec) -> Samples:
    """A class of torchvision.datasets, such as ``torchvision:CIFAR100,root=DIR,split=train``.

    ``split=`` becomes ``train=True|False`` where the class asks for that. Nothing is downloaded unless
    ``download=true`` says so.
    """
    from torchvision import datasets

    if spec.location not in datasets.__all__:
        raise unknown("torchvision data set", spec.location, datasets.__all__)
    location = f"torchvision.datasets:{spec.location}"
    options, beside = dict(spec.options), spec.beside
    parameters = named_parameters(import_attribute(location))
    if "split" not in parameters and "train" in parameters:
        beside = (*beside, "split")
        split = options.pop("split", None)
        if split not in (None, "train", "test"):
            raise unknown(f"split of {spec.location}", split, ("train", "test"))
        if split is not None:
            options["train"] = str(split == "train")
    try:
        dataset = call_factory(location, options, {}, beside)
    except KdpipeError as error:
        downloads = options.get("download", "").lower() == "true"
        if isinstance(error, UsageError) or "download" not in parameters or downloads:
            raise
        reason = str(error).rstrip(".")
        raise UsageError(f"{reason}. Give root=DIR where the data are, or download=true in the spec.") from error
    return _from_dataset(dataset, spec, prefix=_split_of(dataset) or spec.options.get("split", ""))


@data_source("python")
def python_dataset(spec: Spec) -> Samples:
    """What ``package.module:factory`` returns: a map-style data set of (input, label) items.

    It may carry ``targets`` (labels), ``classes`` (names) and ``sample_ids``; else labels are read item by item,
    classes are numbered, and ids are positions.
    """
    dataset = call_factory(spec.location, spec.options, {}, spec.beside)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UsageError(f"'{spec.location}' returned a {type(dataset).__name__}, not a map-style data set.")
    return _from_dataset(dataset, spec, prefix=spec.options.get("split", ""))


def _split_of(dataset: Any) -> str:
    """The split as torchvision's data sets keep it, however it was asked for: ids must not depend on the spelling."""
    train = getattr(dataset, "train", None)
    if isinstance(train, bool):
        return "train" if train else "test"
    return str(getattr(dataset, "split", None) or getattr(dataset, "_split", None) or "")


def _from_dataset(dataset: Any, spec: Spec, prefix: str) -> Samples:
    items = MapItems(dataset, str(spec))
    labels = items.labels = _labels(dataset, items)
    names = getattr(dataset, "classes", None)
    if names is None:
        names = range(int(labels.max()) + 1 if len(labels) else 0)
    return Samples(
        spec=str(spec),
        items=items,
        indices=np.arange(len(labels)),
        sample_ids=pa.array(_sample_ids(dataset, prefix), pa.string()),
        labels=labels,
        class_names=tuple(", ".join(n) if isinstance(n, tuple) else str(n) for n in names),
    )


def _labels(dataset: Any, items: MapItems) -> np.ndarray:
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            try:
                numbers = np.asarray(labels)
                if numbers.ndim == 1 and (numbers == numbers.astype(np.int64)).all():
                    return numbers.astype(np.int64)
            except (TypeError, ValueError):
                pass
            raise UsageError(f"The `{name}` of '{items.spec}' are not one class number for each sample.")
    return np.array([items.label(position) for position in range(len(dataset))], np.int64)


def _sample_ids(dataset: Any, prefix: str) -> Sequence[str]:
    ids = getattr(dataset, "sample_ids", None)
    if ids is not None:
        return [str(sample_id) for sample_id in ids]
    files = getattr(dataset, "samples", None)
    root = getattr(dataset, "root", None)
    if isinstance(files, list) and files and root is not None and isinstance(files[0], tuple):
        return [Path(path).relative_to(root).as_posix() for path, *_ in files]
    return [f"{prefix}/{position}" if prefix else str(position) for position in range(len(dataset))]
