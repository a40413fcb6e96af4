"""Proof that a data set, seen through a preprocessing, is what a store's teacher saw."""

import dataclasses
import logging
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from ..stores import JoinedDataset, MismatchError, Store
from ..stores.differences import told_class_differences
from ..stores.manifest import fingerprint
from .augment import Augmentation, take_probe
from .data import Samples
from .inputs import InputDataset
from .views import Preprocessing, input_digest

logger = logging.getLogger(__name__)

# recomputing an input costs a decode; 64 spread over the store find any systematic difference
CHECKED_INPUTS = 64
# of which the inputs are recomputed: each costs the receipts of a view
_CHECKED_VIEWS = 4


def check_alignment(store: Store, inputs: InputDataset, joined: JoinedDataset, num_views: int = 1) -> None:
    """Compare classes, labels, preprocessing and some exact input tensors with the store's.

    Args:
        store: the store.
        inputs: the data set, with the store's augmentation.
        joined: the samples both have.
        num_views: how many of the store's views are in use.

    Raises:
        MismatchError: they differ; it names what differs, where, and the likely cause.
    """
    _check_classes(store, inputs.samples)
    _check_labels(store, inputs.samples, joined)
    _check_views(store)
    _check_preprocessing(store, inputs.preprocessing)
    augmentation, probe = Augmentation.of(store.manifest), store.manifest.probe
    if augmentation is not None and probe is not None:
        probe.check(take_probe(augmentation), str(store))
    _check_inputs(store, inputs, joined, _spread(num_views, _CHECKED_VIEWS))


def _check_classes(store: Store, samples: Samples) -> None:
    if store.manifest.dataset.classes == fingerprint(samples.class_names):
        return
    differences = told_class_differences(store.class_names, samples.class_names, ("in the store", "in the data"))
    raise MismatchError(
        f"The classes of '{samples.spec}' are not those of {store}: {differences}. Use the data set the store was made "
        "from, in the store's class order."
    )


def _check_labels(store: Store, samples: Samples, joined: JoinedDataset) -> None:
    labels = store.samples(["label"])["label"].take(pa.array(joined.rows)).to_numpy()
    differing = np.flatnonzero(labels != samples.labels[joined.positions])
    if not differing.size:
        return
    rows = joined.rows[differing]
    sample_id = samples.sample_ids[int(joined.positions[differing[0]])].as_py()
    raise MismatchError(
        f"{differing.size} of {len(joined)} samples have another label in '{samples.spec}' than in {store} "
        f"(rows {_some(rows)}; '{sample_id}' is {samples.labels[joined.positions[differing[0]]]} here, "
        f"{labels[differing[0]]} there). Was the data set relabelled, or are the ids of another order?"
    )


def _check_views(store: Store) -> None:
    if store.manifest.teacher.spec.startswith("imported-views:"):
        raise MismatchError(
            f"{store} was imported, and its teacher saw crops that another program drew: kdpipe cannot draw them "
            "again, and would give the student others. Read the store in a training loop that can (docs/import.md)."
        )


def _check_preprocessing(store: Store, preprocessing: Preprocessing) -> None:
    theirs, ours = Preprocessing.from_dict(store.manifest.preprocessing), preprocessing
    names = [f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)]
    if names:
        differing = "; ".join(f"{n} is {getattr(theirs, n)} there, {getattr(ours, n)} here" for n in names)
        raise MismatchError(
            f"The student's preprocessing is not the teacher's of {store}: {differing}. "
            "Leave --preprocess out to use the store's."
        )


def _check_inputs(store: Store, inputs: InputDataset, joined: JoinedDataset, views: list[int]) -> None:
    """Recompute input digests, evenly spread over views and chunks."""
    grid, spec = store.manifest.grid, inputs.samples.spec
    per_view = CHECKED_INPUTS // len(views)
    chunks = _spread(grid.chunks_per_view, per_view)
    per_chunk = max(1, per_view // len(chunks))
    checked, differing = 0, list[str]()
    for view in views:
        of_view = inputs.at_view(view)
        for chunk in chunks:
            kept_here = store.receipt(view * grid.chunks_per_view + chunk).inputs
            known = [(kept, place) for kept in kept_here if (place := _place(joined.rows, kept.row)) is not None]
            for kept, place in known[:: -(-len(known) // per_chunk) or 1]:
                seen, _ = of_view[int(joined.positions[place])]
                checked += 1
                if input_digest(seen) != kept.digest:
                    differing.append(f"{kept.row}" + (f" in view {view}" if inputs.augmentation else ""))
    if not checked and store.manifest.teacher.spec.startswith("imported:"):
        logger.warning(
            "%s was imported, and nobody kept what its teacher's inputs were: ids, labels and classes agree with '%s'; "
            "that images and preprocessing do cannot be proved.",
            store, spec,
        )  # fmt: skip
    elif not checked:
        logger.warning(
            "None of the rows whose inputs %s can prove is in '%s': the images themselves were not compared.",
            store, spec,
        )  # fmt: skip
    if differing:
        cause = "another order of the files' content" if len(differing) < checked else _library_cause(store)
        raise MismatchError(
            f"{len(differing)} of {checked} recomputed inputs are not what the teacher saw (rows {_some(differing)} "
            f"of {store}). Likely cause: {cause}, or samples of another split under the same ids."
        )


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` numbers below ``count``, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int)).tolist()


def _place(rows: np.ndarray, row: int) -> int | None:
    """Where a row is in the ascending ``rows``, or None."""
    place = int(np.searchsorted(rows, row))
    return place if place < len(rows) and rows[place] == row else None


def _library_cause(store: Store) -> str:
    recorded = store.manifest.teacher.libraries
    others = [
        f"{name} {recorded.get(name, 'unknown')} then, {version(name)} now"
        for name in ("torchvision", "pillow")
        if recorded.get(name) != version(name)
    ]
    if others:
        return f"another version of the image libraries ({'; '.join(others)})"
    return "images that were changed or re-encoded since"


def _some(rows: "np.ndarray | list[str]") -> str:
    shown = ", ".join(str(row) for row in rows[:5])
    return shown if len(rows) <= 5 else f"{shown}, ..."
