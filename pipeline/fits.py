"""Which stores of a catalog fit a data set, by fingerprints alone."""

from collections.abc import Sequence
from dataclasses import replace

from ..stores.errors import UsageError
from ..stores.manifest import DatasetInfo
from ..stores.remote.catalog import Entry
from .data import Samples, load_data
from .extract import in_row_order


def fitting(entries: Sequence[Entry], spec: str) -> list[Entry]:
    """The stores that fit, best first: of exactly these samples and labels, then those of the same classes.

    A store of the same classes may share all, some or none of its samples with the data set: that takes its sample ids,
    not only its manifest. The same samples with other labels do not fit.

    Args:
        entries: of a catalog.
        spec: of the data set.

    Raises:
        UsageError: the data set cannot be loaded.
    """
    samples = load_data(spec)
    classes = samples.info().classes
    found = [replace(entry, fits=_fit(entry, samples)) for entry in entries if entry.class_names == classes]
    return sorted((entry for entry in found if entry.fits != "no"), key=lambda entry: (entry.fits, entry.name))


def _fit(entry: Entry, samples: Samples) -> str:
    ours = _info(samples, entry.order or "dataset")
    if ours is None or entry.sample_ids != ours.sample_ids:
        return "perhaps"
    return "exactly" if entry.labels == ours.labels else "no"


def _info(samples: Samples, order: str) -> DatasetInfo | None:
    try:
        return in_row_order(samples, order).info()
    except UsageError:  # an order of a later kdpipe
        return None
