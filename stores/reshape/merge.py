"""Merging stores: disjoint rows of the same teacher, classes and preprocessing, or parts of one store, become one."""

import dataclasses
from collections.abc import Callable, Sequence
from os import PathLike

import numpy as np

from .. import manifest as manifests
from ..arrays import GROUP_NAMES
from ..checks.content import ids_that_repeat
from ..derive import check_apart, dataset_of, derive, derived_manifest, open_source, parent_of
from ..errors import MismatchError, RefusedError, UsageError
from ..groups import assign_groups, group_names
from ..manifest import DatasetInfo, Manifest
from ..reader import Store, open_store
from ..tables import classes_table
from .gather import Gathering, all_rows, rows_of_chunk, with_column
from .parts import are_parts, merge_parts

# what may differ between the rows of one store
_OF_THE_ROWS = {"num_samples", "sample_ids", "labels", "chunk_rows", "group_rule", "order", "parents"}


def merge(
    paths: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    groups: str | None = None,
    chunk_rows: int | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Write the rows of several stores, one store after the other, as one store; run again, it goes on.

    Parts of one store, such as further views of the same samples, are put together by :func:`.parts.merge_parts`.

    Args:
        paths: two or more finished stores, or parts of one; local or remote.
        out: the folder of the new store.
        groups: how classes are grouped by their counts in all stores, see :func:`~kdpipe.stores.groups.assign_groups`;
            needed where the stores group them differently.
        chunk_rows: rows of a chunk; by default as an extraction chooses them.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store.

    Raises:
        MismatchError: the stores differ in more than their rows, or share samples.
        RefusedError: one is not finished; groups differ and cannot be changed; parts lack chunks.
        UsageError: fewer than two stores, or a group rule that cannot be read.
        CorruptStoreError: a file of a store is not what was written.
    """
    if len(paths) < 2:
        raise UsageError("Give at least two stores to merge.")
    parts = [open_store(path, allow_unfinished=True) for path in paths]
    if are_parts(parts):
        if groups is not None or chunk_rows is not None:
            raise UsageError("These are parts of one store, whose groups and chunks stay: leave out what changes them.")
        return merge_parts(parts, out, on_progress=on_progress)
    stores = [open_source(path) for path in paths]
    check_apart(out, stores)
    for other in stores[1:]:
        _check_alike(stores[0], other)
    gathering = Gathering([all_rows(store) for store in stores])
    _check_disjoint(stores, gathering)
    counts = np.bincount(gathering.samples["label"].to_numpy(), minlength=stores[0].manifest.num_classes)
    names, rule = _groups(stores, counts, groups)
    gathering.samples = with_column(gathering.samples, "group", np.array(names)[gathering.samples["label"].to_numpy()])
    first = stores[0].manifest
    manifest = derived_manifest(
        first,
        [parent_of(store.manifest, f"merged: its rows are {span} here") for store, span in _spans(stores)],
        num_samples=len(gathering),
        chunk_rows=rows_of_chunk(chunk_rows, len(gathering), first.arrays),
        dataset=dataset_of(_joined([store.manifest.dataset for store in stores]), gathering.samples),
        group_rule=rule,
        order="dataset",
    )
    classes = classes_table(stores[0].class_names, counts, names)
    return derive(out, manifest, classes, gathering.write_chunk, constants=stores[0].constants, on_progress=on_progress)


def _check_alike(one: Store, other: Store) -> None:
    """See that two stores differ in their rows alone."""
    left, right = one.manifest, other.manifest
    differing = [name for name in manifests.differences(left, right) if name not in _OF_THE_ROWS]
    if left.num_views != right.num_views and "num_views" not in differing:
        differing.append("num_views")
    if differing:
        raise MismatchError(
            f"{other} is no more rows of {one}: they differ in {', '.join(differing)}. Merge stores of one teacher, "
            "with the same classes, preprocessing, arrays and codec (`kdpipe store convert` changes the codec)."
        )
    for name, values in one.constants.items():
        if not np.array_equal(values, other.constants[name]):
            raise MismatchError(f"{other} has another {name} than {one}. Merge stores of one teacher.")


def _check_disjoint(stores: Sequence[Store], gathering: Gathering) -> None:
    """See that no sample is in two stores."""
    repeated = ids_that_repeat(gathering.samples["sample_id"])
    if not repeated:
        return
    starts = np.cumsum([0, *(len(store) for store in stores)])
    sample_id, rows = next(iter(repeated.items()))
    owners = np.searchsorted(starts, rows[:2], side="right") - 1
    places = " and ".join(
        f"row {row - starts[owner]:,} of {stores[owner]}" for row, owner in zip(rows[:2].tolist(), owners, strict=True)
    )
    count = "100 or more" if len(repeated) == 100 else str(len(repeated))
    raise MismatchError(
        f"The stores share {count} sample(s), such as '{sample_id}' ({places}). Rows of a merged store are different "
        "samples. If these are the same, take a part of one first: `kdpipe store subset`. If they only have the same "
        "name (folder: names every file by its path below its own folder), make one of the stores again from data with "
        "other ids: parquet:GLOB,id=COLUMN, or sample_ids of a python: data set."
    )


def _groups(stores: Sequence[Store], counts: np.ndarray, wanted: str | None) -> tuple[list[str], str]:
    """The group of every class, and the rule that says so."""
    first = stores[0]
    same = all(np.array_equal(store.class_groups, first.class_groups) for store in stores)
    groups, rule = first.class_groups, first.manifest.group_rule
    if wanted is not None:
        groups, rule = assign_groups(wanted, counts, first.class_names)
    elif not same:
        raise MismatchError(
            "The stores put some classes into other groups. Say how classes are grouped by their counts in all stores, "
            f"such as --groups {rule if rule == 'thirds' or rule.startswith('counts:') else 'thirds'}."
        )
    changed = not same or not np.array_equal(groups, first.class_groups)
    if changed and first.manifest.array("group_logsumexp") is not None:
        raise RefusedError(
            f"The codec {first.manifest.codec} has stored sums over the groups that each store was made with; they "
            f"cannot be had for other groups ({', '.join(GROUP_NAMES)}). Extract again, with the same --groups FILE."
        )
    return group_names(groups), rule


def _joined(datasets: Sequence[DatasetInfo]) -> DatasetInfo:
    """What is recorded of several data sets together; the fingerprints are not yet those of all rows."""
    specs = list(dict.fromkeys(dataset.spec for dataset in datasets))
    text = " + ".join(specs)
    long_tail = datasets[0].long_tail
    return dataclasses.replace(
        datasets[0],
        spec=text if len(text) <= 4000 else f"{specs[0]} + {len(specs) - 1} others",
        long_tail=long_tail if all(dataset.long_tail == long_tail for dataset in datasets) else None,
        unreadable=sum(dataset.unreadable for dataset in datasets),
    )


def _spans(stores: Sequence[Store]) -> list[tuple[Store, str]]:
    """Every store, and which rows of the new one are its."""
    starts = np.cumsum([0, *(len(store) for store in stores)]).tolist()
    return [(store, f"{start}-{start + len(store) - 1}") for store, start in zip(stores, starts, strict=False)]
