"""The rows of a store under a class map: as a new store, or as a part of making one."""

import dataclasses
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..codecs import Float16, Float32
from ..derive import check_apart, derive, derived_manifest, open_source, parent_of
from ..errors import MismatchError, UsageError
from ..groups import assign_groups, group_names
from ..manifest import Manifest, fingerprint
from ..reader import Store
from ..tables import classes_table
from ..writer import StoreWriter
from .class_map import ClassMap
from .columns import MappedColumns
from .gather import Gathering, Part, rows_of_chunk, with_column


class MappedGathering(Gathering):
    """Rows of one store under a class map.

    Args:
        part: the rows; the label of each is in the map.
        columns: the classes.
        rule: how the new classes are grouped by their counts; None for the groups that they had, of a selection.

    Raises:
        UsageError: the rule cannot be read.
    """

    def __init__(self, part: Part, columns: MappedColumns, rule: str | None) -> None:
        super().__init__([part])
        self._columns = columns
        names, store = columns.class_map.names, part.store
        labels = columns.class_map.new_class[self.samples["label"].to_numpy()]
        self.counts = np.bincount(labels, minlength=len(names))
        if rule is None:
            self.groups, self.rule = store.class_groups[columns.class_map.columns], store.manifest.group_rule
        else:
            self.groups, self.rule = assign_groups(rule, self.counts, names)
        # what the teacher says of them follows with the logits, chunk by chunk
        group = np.array(group_names(self.groups))[labels]
        self.samples = with_column(with_column(self.samples, "label", labels), "group", group)

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that are stored once, for all rows."""
        return self._columns.constants

    @property
    def classes(self) -> pa.Table:
        """The class table of the new store."""
        return classes_table(self._columns.class_map.names, self.counts, group_names(self.groups))

    @property
    def fields(self) -> dict[str, Any]:
        """What these rows and classes decide of a manifest."""
        fields, columns = super().fields, self._columns
        names = columns.class_map.names
        return {
            **fields,
            "dataset": dataclasses.replace(fields["dataset"], classes=fingerprint(names)),
            "num_classes": len(names),
            "arrays": columns.arrays,
            "codec": None if columns.codec in (Float16(), Float32()) else str(columns.codec),
            "group_rule": self.rule,
        }

    def write_chunk(self, writer: StoreWriter, chunk: int) -> None:
        """Write a chunk of the store of these rows and classes."""
        grid = writer.manifest.grid
        view, rows = grid.view(chunk), grid.rows(chunk)
        arrays, says = self._columns.apply(self.arrays(view, rows), self.groups)
        samples = None
        if view == 0:
            samples = self.samples.slice(rows.start, len(rows))
            says["teacher_correct"] = says["teacher_top1"] == samples["label"].to_numpy()
            for name, values in says.items():
                samples = with_column(samples, name, values)
        writer.write_chunk(chunk, arrays, samples, self.inputs(view, rows))


def map_classes(
    path: str | PathLike[str],
    out: str | PathLike[str],
    class_map: str | PathLike[str],
    *,
    groups: str | None = None,
    codec: str | None = None,
    drop_others: bool = False,
    chunk_rows: int | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Write a store with a student's classes in the place of the teacher's; run again, it goes on.

    Args:
        path: a finished store with all logits, local or remote.
        out: the folder of the new store.
        class_map: the file that says which classes become which, see :meth:`ClassMap.read`.
        groups: how the new classes are grouped by their counts, see :func:`~kdpipe.stores.groups.assign_groups`; by
            default by the rule of the store.
        codec: how the new logits are stored, see :class:`~.columns.MappedColumns`.
        drop_others: leave out samples whose class has no place in the map; else they are refused.
        chunk_rows: rows of a chunk; by default as an extraction chooses them.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store.

    Raises:
        UsageError: the map, the rule or the codec cannot be read; no sample is left.
        MismatchError: samples whose class has no place in the map.
        MissingArrayError: the store has not all logits.
        RefusedError: the store is not finished; the codec cannot be made from it.
        BadLogitsError: the codec cannot hold a logit.
        CorruptStoreError: a file of the store is not what was written.
    """
    store = open_source(path)
    check_apart(out, [store])
    mapping = ClassMap.read(Path(class_map), store.class_names)
    columns = MappedColumns(store.manifest, store.constants, mapping, codec)
    labels = store.samples(["label"])["label"].to_numpy()
    rows = in_map(store, mapping, np.arange(len(store)), labels, drop_others=drop_others)
    gathering = MappedGathering(Part(store, rows), columns, _rule(store, groups))
    left_out = len(store) - len(rows)
    change = (
        f"{mapping.num_old} classes mapped to {len(mapping.names)} ({mapping.digest}), "
        f"{len(mapping.columns)} of them taken; {left_out} samples of other classes left out"
    )
    fields = gathering.fields
    spec = f"{store.manifest.dataset.spec},class_map={class_map}"  # with which the data have these classes, too
    manifest = derived_manifest(
        store.manifest,
        [parent_of(store.manifest, change)],
        **{**fields, "dataset": dataclasses.replace(fields["dataset"], spec=spec)},
        chunk_rows=rows_of_chunk(chunk_rows, len(rows), columns.arrays),
    )
    return derive(
        out, manifest, gathering.classes, gathering.write_chunk, constants=gathering.constants, on_progress=on_progress
    )


def in_map(store: Store, class_map: ClassMap, rows: np.ndarray, labels: np.ndarray, *, drop_others: bool) -> np.ndarray:
    """Those of the rows whose class has a place in a map.

    Args:
        store: whose rows they are.
        class_map: the map.
        rows: (n,) rows.
        labels: (N,) old label of every row of the store.
        drop_others: leave out the others; else they are refused.

    Raises:
        MismatchError: there are others, and they were to be refused.
        UsageError: none is left.
    """
    known = class_map.new_class[labels[rows]] >= 0
    if not known.all() and not drop_others:
        others = labels[rows[~known]]
        examples = ", ".join(f"'{store.class_names[label]}'" for label in np.unique(others)[:3])
        raise MismatchError(
            f"{len(others):,} of {len(rows):,} samples of {store} are of classes that are not kept, such as {examples}."
            " Keep these classes too, or leave the samples out with --drop-others."
        )
    if not known.any():
        raise UsageError(f"No sample of {store} is left.")
    return rows[known]


def _rule(store: Store, wanted: str | None) -> str:
    """The rule for the new classes' groups."""
    rule = wanted or store.manifest.group_rule
    if wanted is None and rule.startswith("file:"):
        raise UsageError(
            f"The groups of {store} came from a file ({rule}), which names the teacher's classes. Say how the new "
            "classes are grouped: --groups thirds, or a file that names them."
        )
    return rule
