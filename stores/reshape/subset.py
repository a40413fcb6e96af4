"""A part of a store: some rows, some classes, the first views."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..derive import check_apart, derive, derived_manifest, open_source, parent_of
from ..errors import MismatchError, UsageError
from ..manifest import Manifest, fingerprint
from ..reader import Store
from ..streaming import epoch_order
from .class_map import ClassMap, class_numbers
from .columns import MappedColumns
from .gather import Gathering, Part, rows_of_chunk
from .map_classes import MappedGathering, in_map

_SPAN = re.compile(r"(\d{1,15})(?:-(\d{1,15}))?")


@dataclass(frozen=True, kw_only=True)
class Subset:
    """What is wanted of a store; all conditions hold together.

    Attributes:
        rows: spans of rows, first and last included.
        ids: a file of sample ids: one on each line, or CSV or Parquet with a column sample_id.
        labels: classes, by name or number: rows of these.
        per_class: at most so many rows of each class, drawn from those that the other conditions leave.
        seed: of that draw.
        classes: the classes that are kept, by name or number; their logits stay what they are.
        drop_others: leave out rows whose class is not kept; else they are refused.
        views: how many, from view 0.
    """

    rows: tuple[tuple[int, int], ...] = ()
    ids: Path | None = None
    labels: tuple[str, ...] = ()
    per_class: int | None = None
    seed: int = 0
    classes: tuple[str, ...] = ()
    drop_others: bool = False
    views: int | None = None


def parse_spans(text: str) -> tuple[tuple[int, int], ...]:
    """Read ``0-99,200,300-399``: spans of whole numbers with both ends included.

    Raises:
        UsageError: it is not of that form.
    """
    spans = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UsageError(f"'{part}' is no span of rows. Write 0-99 or 7, several with commas between them.")
        spans.append((first, last))
    return tuple(spans)


def subset(
    path: str | PathLike[str],
    out: str | PathLike[str],
    wanted: Subset,
    *,
    chunk_rows: int | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Write a part of a store as a store; run again, it goes on.

    Rows keep their order and their numbers as the store gives them; the classes keep their groups. With ``classes``,
    logits of the others are left out and nothing else changes: their softmax is the teacher's distribution given that
    the class is one of those kept.

    Args:
        path: a finished store, local or remote.
        out: the folder of the new store.
        wanted: what to take.
        chunk_rows: rows of a chunk; by default as an extraction chooses them.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store.

    Raises:
        UsageError: nothing is taken, or nothing left out; rows, classes or views that the store has not.
        MismatchError: ids that the store has not; rows whose class is not kept.
        MissingArrayError: classes of a store that has not all logits.
        RefusedError: the store is not finished.
        CorruptStoreError: a file of the store is not what was written.
    """
    store = open_source(path)
    check_apart(out, [store])
    whole = store.manifest
    num_views = whole.num_views if wanted.views is None else wanted.views
    if not 1 <= num_views <= whole.num_views:
        raise UsageError(f"{store} has {whole.num_views} view(s), not {num_views}.")
    samples = store.samples(["sample_id", "label"])
    rows, change = _rows(store, wanted, samples)
    gathering, change = _gathering(store, wanted, rows, samples["label"].to_numpy(), change)
    if num_views < whole.num_views:
        change.append(f"views 0-{num_views - 1}")
    if not change:
        raise UsageError("Nothing is left out. Say which rows, classes or views to take.")
    fields = {"num_views": num_views, **gathering.fields}
    manifest = derived_manifest(
        whole,
        [parent_of(whole, f"subset: {'; '.join(change)}")],
        chunk_rows=rows_of_chunk(chunk_rows, len(gathering), fields.get("arrays", whole.arrays)),
        **fields,
    )
    return derive(
        out, manifest, gathering.classes, gathering.write_chunk, constants=gathering.constants, on_progress=on_progress
    )


def _gathering(
    store: Store, wanted: Subset, rows: np.ndarray, labels: np.ndarray, change: list[str]
) -> tuple[Gathering, list[str]]:
    """The rows with all classes, or with those that are kept."""
    if not wanted.classes:
        return Gathering([Part(store, rows)]), change
    numbers = class_numbers(wanted.classes, store.class_names, str(store))
    class_map = ClassMap.selection(numbers, store.class_names)
    columns = MappedColumns(store.manifest, store.constants, class_map, None)
    kept = in_map(store, class_map, rows, labels, drop_others=wanted.drop_others)
    change = [*change, f"{len(class_map.names)} of {class_map.num_old} classes ({class_map.digest})"]
    return MappedGathering(Part(store, kept), columns, None), change


def _rows(store: Store, wanted: Subset, samples: pa.Table) -> tuple[np.ndarray, list[str]]:
    """The rows that all conditions leave, ascending, and the conditions in words."""
    keep, change = np.ones(len(store), bool), []
    if wanted.rows:
        keep &= _in_spans(store, wanted.rows)
        change.append("rows " + _shortened(",".join(f"{first}-{last}" for first, last in wanted.rows)))
    if wanted.ids is not None:
        found = _with_ids(store, samples["sample_id"], wanted.ids)
        keep &= found
        change.append(f"{int(found.sum())} sample ids")
    labels = samples["label"].to_numpy()
    if wanted.labels:
        numbers = class_numbers(wanted.labels, store.class_names, str(store))
        keep &= np.isin(labels, numbers)
        change.append("labels " + _shortened(",".join(map(str, sorted(set(numbers))))))
    rows = np.flatnonzero(keep)
    if wanted.per_class is not None:
        if wanted.per_class < 1:
            raise UsageError(f"{wanted.per_class} samples of each class are none. Give at least 1.")
        rows = _drawn(rows, labels, wanted.per_class, wanted.seed)
        change.append(f"at most {wanted.per_class} of each class, seed {wanted.seed}")
    if not len(rows):
        raise UsageError(f"No row of {store} is left.")
    return rows, change


def _in_spans(store: Store, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    keep = np.zeros(len(store), bool)
    for first, last in spans:
        if last >= len(store):
            raise UsageError(f"{store} has the rows 0 to {len(store) - 1:,}: {first}-{last} are not all in it.")
        keep[first : last + 1] = True
    return keep


def _with_ids(store: Store, ids: pa.ChunkedArray, path: Path) -> np.ndarray:
    """Which rows have one of the sample ids of a file."""
    wanted = _read_ids(path)
    # pyarrow makes the functions of this module when it is imported: no checker sees them
    missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=ids)))  # pyright: ignore[reportAttributeAccessIssue]
    if len(missing):
        examples = ", ".join(f"'{one}'" for one in missing[:3].to_pylist())
        raise MismatchError(
            f"{len(missing):,} of the {len(wanted):,} sample ids in {path} are not in {store}, such as {examples}; the "
            f"store has ids such as '{ids[0].as_py()}'."
        )
    return pc.is_in(ids, value_set=wanted).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]


def _read_ids(path: Path) -> pa.ChunkedArray:
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() == ".parquet":
            return pa.chunked_array(parquet.read_table(path, columns=["sample_id"])["sample_id"].cast(pa.string()))
        if path.suffix.lower() == ".csv":
            texts = csv.ConvertOptions(column_types={"sample_id": pa.string()}, include_columns=["sample_id"])
            return csv.read_csv(path, convert_options=texts)["sample_id"]
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return pa.chunked_array([pa.array([line for line in lines if line.strip()], pa.string())])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(
            f"The sample ids in {path} cannot be read: {error}. Give one on each line, or CSV or Parquet with a column "
            "sample_id."
        ) from None


def _drawn(rows: np.ndarray, labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """At most so many rows of each class, in a seeded random order the first of it; ascending."""
    shuffled = rows[epoch_order(rows, 1, order="random", seed=seed, epoch=0)]
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    of_class = labels[by_class]
    starts = np.searchsorted(of_class, of_class)  # where the class of each begins
    return np.sort(by_class[np.arange(len(by_class)) - starts < per_class])


def _shortened(text: str) -> str:
    """Text for a record; a long one is named by its digest too, so that it says which."""
    return text if len(text) <= 500 else f"{text[:400]},... ({fingerprint([text])[-16:]})"
