"""A part of a store that is a valid store by itself: fewer arrays, fewer views, or a run of whole chunks.

Payload files stay what they are, byte for byte, so that every one is proved by the parent's receipt.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..arrays import ArrayInfo
from ..derive import dataset_of, derived_manifest, parent_of
from ..errors import MissingArrayError, RefusedError, UsageError, unknown
from ..files import FileRecord
from ..layout import Grid, samples_file
from ..manifest import InputDigest, Manifest, Parent, Receipt
from ..payload.layout import payload_layout

NAMES = ("logits", "ranks")
_SPAN = re.compile(r"(\d{1,15})(?:-(\d{1,15}))?")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is wanted of a store.

    Attributes:
        arrays: "logits", "ranks", or both; empty for all.
        rows: the first and the last row; None for all. Whole chunks that cover them are taken.
        views: the first and the last view; None for all. The first must be 0: the samples tables are about it.
    """

    arrays: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None
    views: tuple[int, int] | None = None

    @classmethod
    def parse(cls, arrays: Sequence[str] = (), rows: str | None = None, views: str | None = None) -> "Selection":
        """Read ``A-B`` (both included) and names as they are typed.

        Raises:
            UsageError: a span is not of that form, or an array has a name that no store knows.
        """
        for name in arrays:
            if name not in NAMES:
                raise unknown("array", name, NAMES)
        return cls(arrays=tuple(arrays), rows=_span("rows", rows), views=_span("views", views))

    def of(self, manifest: Manifest) -> "Part":
        """The part of a store.

        Raises:
            UsageError: rows or views that the store has not, or views without view 0.
            RefusedError: rows of a store whose views are mixed with other rows.
            MissingArrayError: an array that the store has not.
        """
        stored = {"logits": manifest.logit_arrays, "ranks": manifest.components("ranks")}
        has = {name: arrays for name, arrays in stored.items() if arrays}
        if missing := [name for name in self.arrays if name not in has]:
            raise MissingArrayError(f"The store has no '{missing[0]}', only {', '.join(has)}.")
        blocks, num_views = range(manifest.grid.chunks_per_view), manifest.num_views
        if self.rows is not None:
            _check_within("rows", self.rows, manifest.num_samples)
            if manifest.array("mix_rows") is not None:
                raise RefusedError("The store's views are mixed with other rows of it: leave --rows out, and take all.")
            blocks = range(self.rows[0] // manifest.chunk_rows, self.rows[1] // manifest.chunk_rows + 1)
        if self.views is not None:
            _check_within("views", self.views, manifest.num_views)
            if self.views[0] != 0:
                raise UsageError("Views must begin with view 0, which the samples tables are about: --views 0-B.")
            num_views = self.views[1] + 1
        wanted = [array for name in self.arrays or has for array in has[name]] + [*manifest.view_arrays]
        part = Part(manifest, tuple(array for array in manifest.arrays if array in wanted), num_views, blocks)
        if manifest.payload_format != "zarr" and not (part.takes_all_rows and part.arrays == manifest.arrays):
            raise RefusedError(
                "The arrays and row numbers of a Parquet payload share files, which are only taken whole. Pull all of "
                "it, then take a part: kdpipe store subset."
            )
        return part


@dataclass(frozen=True)
class Part:
    """Some arrays, the first views and a run of row blocks of one store, which becomes a store.

    Attributes:
        whole: the manifest of the store that it is a part of.
        arrays: those that are taken.
        num_views: how many, from view 0.
        blocks: the row blocks.
    """

    whole: Manifest
    arrays: tuple[ArrayInfo, ...]
    num_views: int
    blocks: range

    @property
    def takes_all_rows(self) -> bool:
        """Whether no row is left out."""
        return len(self.blocks) == self.whole.grid.chunks_per_view

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out at all."""
        return self.takes_all_rows and self.num_views == self.whole.num_views and self.arrays == self.whole.arrays

    @property
    def start(self) -> int:
        """The row of the whole store that is row 0 here."""
        return self.blocks.start * self.whole.chunk_rows

    @property
    def grid(self) -> Grid:
        """The chunks of the part."""
        stop = min(self.blocks.stop * self.whole.chunk_rows, self.whole.num_samples)
        return Grid(stop - self.start, self.num_views, self.whole.chunk_rows)

    @property
    def parent(self) -> Parent:
        """For the record: where it comes from, and what was taken."""
        changes = []
        if self.arrays != self.whole.arrays:
            changes.append(f"only {', '.join(array.name for array in self.arrays)}")
        if self.num_views != self.whole.num_views:
            changes.append(f"views 0-{self.num_views - 1}")
        if not self.takes_all_rows:
            changes.append(f"rows {self.start}-{self.start + self.grid.num_samples - 1}")
        return parent_of(self.whole, f"pulled in part: {'; '.join(changes)}")

    def chunks(self) -> Iterator[tuple[int, int]]:
        """The number of every chunk here, and in the whole store."""
        grid, theirs = self.grid, self.whole.grid
        for chunk in range(grid.num_chunks):
            yield chunk, grid.view(chunk) * theirs.chunks_per_view + self.blocks.start + grid.block(chunk)

    def files(self, chunk: int, receipt: Receipt) -> list[tuple[str, FileRecord]]:
        """The files of a chunk that are taken: their paths in the whole store, and what they are here."""
        view, block = self.grid.view(chunk), self.grid.block(chunk)
        layout = payload_layout(self.whole)  # with all rows, its chunks have the numbers that they have here
        names = {
            layout.array_file(array.name, view, self.blocks.start + block): layout.array_file(array.name, view, block)
            for array in self.arrays
        }
        if view == 0:
            names[samples_file(self.blocks.start + block)] = samples_file(block)
        return [(r.path, dataclasses.replace(r, path=names[r.path])) for r in receipt.files if r.path in names]

    def receipt(self, chunk: int, receipt: Receipt, files: Sequence[FileRecord]) -> Receipt:
        """The receipt of a chunk here, from the whole store's."""
        rows = self.grid.rows(chunk)
        inputs = tuple(InputDigest(row=one.row - self.start, digest=one.digest) for one in receipt.inputs)
        return Receipt(
            chunk=chunk,
            view=self.grid.view(chunk),
            start=rows.start,
            stop=rows.stop,
            files=tuple(files),
            inputs=inputs,
        )

    def samples(self, table: pa.Table) -> pa.Table:
        """A samples table with its rows counted from the first one here."""
        rows = pa.array(table["row"].to_numpy() - self.start, table.schema.field("row").type)
        return table.set_column(0, table.schema.field("row"), rows)

    def classes(self, classes: pa.Table, samples: pa.Table) -> pa.Table:
        """The class table with counts of the rows here; the groups stay the whole store's."""
        counts = np.bincount(samples["label"].to_numpy(), minlength=len(classes))
        field = classes.schema.field("count")
        return classes.set_column(classes.schema.get_field_index("count"), field, pa.array(counts, field.type))

    def manifest(self, samples: pa.Table | None) -> Manifest:
        """The manifest of the part, before its files and receipts are known.

        Args:
            samples: sample_id and label of every row here; None where no row is left out.
        """
        return derived_manifest(
            self.whole,
            [self.parent],
            num_samples=self.grid.num_samples,
            num_views=self.num_views,
            arrays=self.arrays,
            dataset=self.whole.dataset if samples is None else dataset_of(self.whole.dataset, samples),
            accuracy=self.whole.accuracy if samples is None else None,  # was measured over all rows
        )


def _span(what: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = _SPAN.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise UsageError(f"--{what} '{text}' is not of the form A-B, from A to B with both included.")
    return first, last


def _check_within(what: str, span: tuple[int, int], count: int) -> None:
    if span[1] >= count:
        raise UsageError(f"The store has {count:,} {what}, from 0: {what} {span[0]}-{span[1]} are not all in it.")
