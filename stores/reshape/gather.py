"""Rows of one or several stores, as the rows of a new one.

Shapes: N rows of the new store, n rows of a chunk of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrays import ArrayInfo
from ..derive import dataset_of, source_samples
from ..errors import RefusedError
from ..layout import default_chunk_rows
from ..manifest import InputDigest
from ..reader import Store
from ..writer import StoreWriter

# as many as an extraction keeps
_DIGESTS_PER_CHUNK = 16


@dataclass(frozen=True)
class Part:
    """Some rows of a store, ascending, that become a run of rows of a new one."""

    store: Store
    rows: np.ndarray


class Gathering:
    """The rows of a new store: those of its parts, one part after the other.

    Args:
        parts: their stores have the same arrays and views.

    Raises:
        RefusedError: rows refer to other rows of their store, and would not after this.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.rows) for part in parts)])
        self._digests: tuple[int, dict[int, str]] | None = None
        for part, start in zip(parts, self._starts, strict=False):
            if part.store.manifest.array("mix_rows") and (start or len(part.rows) < len(part.store)):
                raise RefusedError(
                    f"The samples of {part.store} are mixed with other rows of it, whose numbers would change. "
                    "Extract the rows that you need."
                )

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that are stored once, for all rows."""
        return self._parts[0].store.constants

    @property
    def classes(self) -> pa.Table:
        """The class table: the counts are those of these rows, the groups stay."""
        store = self._parts[0].store
        counts = np.bincount(self.samples["label"].to_numpy(), minlength=store.manifest.num_classes)
        return with_column(store.classes, "count", counts)

    @property
    def fields(self) -> dict[str, Any]:
        """What these rows decide of a manifest."""
        dataset = dataset_of(self._parts[0].store.manifest.dataset, self.samples)
        return {"num_samples": len(self), "dataset": dataset}

    @cached_property
    def samples(self) -> pa.Table:
        """The samples of all rows, numbered anew; every table was compared with its receipt.

        Raises:
            CorruptStoreError: one is not what was written.
        """
        tables = [source_samples(part.store).take(pa.array(part.rows)) for part in self._parts]
        return with_column(pa.concat_tables(tables), "row", np.arange(len(self)))

    def arrays(self, view: int, rows: range) -> dict[str, np.ndarray]:
        """The stored arrays of some rows, by name: (n, width)."""
        manifest = self._parts[0].store.manifest
        values = {array.name: np.empty((len(rows), array.width), array.dtype) for array in manifest.arrays}
        for part, start in zip(self._parts, self._starts.tolist(), strict=False):
            first, stop = max(rows.start, start), min(rows.stop, start + len(part.rows))
            if first >= stop:
                continue
            out = {name: array[first - rows.start : stop - rows.start] for name, array in values.items()}
            part.store.read(part.rows[first - start : stop - start], arrays=tuple(values), view=view, out=out)
        return values

    def inputs(self, view: int, rows: range) -> list[InputDigest]:
        """The digests of inputs that are known of some rows: at most sixteen, evenly spread."""
        if self._digests is None or self._digests[0] != view:
            self._digests = view, self._digests_of(view)
        known = [row for row in rows if row in self._digests[1]]
        places = np.linspace(0, len(known) - 1, min(len(known), _DIGESTS_PER_CHUNK)).round().astype(int)
        return [InputDigest(row=known[place], digest=self._digests[1][known[place]]) for place in places]

    def write_chunk(self, writer: StoreWriter, chunk: int) -> None:
        """Write a chunk of a store that holds these rows as they are."""
        grid = writer.manifest.grid
        view, rows = grid.view(chunk), grid.rows(chunk)
        samples = self.samples.slice(rows.start, len(rows)) if view == 0 else None
        writer.write_chunk(chunk, self.arrays(view, rows), samples, self.inputs(view, rows))

    def _digests_of(self, view: int) -> dict[int, str]:
        """The digests of a view, by row of the new store."""
        digests = {}
        for part, start in zip(self._parts, self._starts.tolist(), strict=False):
            per_view = part.store.manifest.grid.chunks_per_view
            for chunk in range(view * per_view, (view + 1) * per_view):
                for one in part.store.receipt(chunk).inputs:
                    place = int(np.searchsorted(part.rows, one.row))
                    if place < len(part.rows) and part.rows[place] == one.row:
                        digests[start + place] = one.digest
        return digests


def all_rows(store: Store) -> Part:
    """Every row of a store."""
    return Part(store, np.arange(len(store)))


def with_column(table: pa.Table, name: str, values: "np.ndarray | Sequence[str]") -> pa.Table:
    """A table with other values in one of its columns."""
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def rows_of_chunk(wanted: int | None, num_samples: int, arrays: Sequence[ArrayInfo]) -> int:
    """Rows of a chunk of a new store: as wanted, or as an extraction chooses them."""
    return min(wanted or default_chunk_rows(num_samples, max(array.row_bytes for array in arrays)), num_samples)
