"""Bytes of a store before it is written: exact where the layout decides them, measured on the pilot where content does.

Shapes: n rows of the pilot, R rows of a chunk.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from ...stores import Manifest
from ...stores import manifest as manifests
from ...stores.files import FileRecord, record_of
from ...stores.groups import group_names
from ...stores.layout import samples_file
from ...stores.manifest import Accuracy, InputDigest, Receipt
from ...stores.payload.layout import payload_layout, standing_files
from ...stores.tables import classes_table, samples_table, to_parquet
from ..data import Samples
from ..worker import digest_rows
from .records import StoreBytes

# tables and receipts that are really made; the others are as large as these on average
_MADE = 32
_CHECKSUM, _DIGEST = f"xxh3-128:{'0' * 32}", f"blake2b-128:{'0' * 32}"


def rows_for_a_chunk(manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> int:
    """R, or as many rows as the pilot has."""
    return min(manifest.chunk_rows, *(len(rows) for rows in arrays.values()))


def chunk_of_pilot(
    manifest: Manifest, arrays: Mapping[str, np.ndarray], count: int, *, chunk_rows: int | None = None
) -> list[tuple[str, bytes | memoryview]]:
    """The payload files of a chunk of the first ``count`` rows of the pilot, made as the store makes them.

    Args:
        manifest: of the store.
        arrays: (n, width) rows of every array, of the pilot.
        count: at most n.
        chunk_rows: to which it is padded; by default ``count``.
    """
    part = manifests.replace(manifest, num_samples=count, num_views=1, chunk_rows=chunk_rows or count)
    taken = {array.name: arrays[array.name][:count] for array in manifest.arrays}
    return list(payload_layout(part).chunk_documents(0, taken))


def store_bytes(
    manifest: Manifest, samples: Samples, class_groups: np.ndarray, arrays: dict[str, np.ndarray], statistics: pa.Table
) -> StoreBytes:
    """The bytes of a finished store.

    Args:
        manifest: of the store, before its first chunk.
        samples: the data set in row order.
        class_groups: (C,) group of every class.
        arrays: (n, width) rows of every array of the manifest, of the pilot; only needed where content decides sizes.
        statistics: the samples table of the pilot.
    """
    classes = to_parquet(classes_table(samples.class_names, samples.class_counts, group_names(class_groups)))
    metadata = sum(map(len, payload_layout(manifest).documents().values()))
    tables = [len(to_parquet(table)) for table in _sample_tables(manifest, samples, class_groups, statistics)]
    made = _spread(manifest.grid.num_chunks)
    receipts = [len(_receipt(manifest, chunk).to_json()) for chunk in made]
    return StoreBytes(
        payload=_payload(manifest, arrays) + sum(constant.num_bytes for constant in manifest.constants),
        tables=len(classes) + round(np.mean(tables) * manifest.grid.chunks_per_view),
        receipts=round(np.mean(receipts) * manifest.grid.num_chunks),
        documents=metadata + len(_finished(manifest).to_json()),
    )


def _payload(manifest: Manifest, arrays: dict[str, np.ndarray]) -> int:
    """Of all chunks."""
    grid = manifest.grid
    sizes = list(payload_layout(manifest).chunk_sizes(0).values())
    if None not in sizes:
        return grid.num_chunks * sum(size for size in sizes if size is not None)
    others = grid.chunks_per_view - 1
    last = _chunk_bytes(manifest, arrays, grid.num_samples - others * grid.chunk_rows)
    return round(grid.num_views * (others * _chunk_bytes(manifest, arrays, grid.chunk_rows) + last))


def _chunk_bytes(manifest: Manifest, arrays: Mapping[str, np.ndarray], rows: int) -> float:
    """Of a chunk whose size its content decides: really made, padding and all, where the pilot has as many rows.

    Else it lies on the line through two smaller ones. Compression is not linear: a chunk is made where it can be.
    """
    most = rows_for_a_chunk(manifest, arrays)

    def size(count: int, chunk_rows: int) -> int:
        return sum(len(data) for _, data in chunk_of_pilot(manifest, arrays, count, chunk_rows=chunk_rows))

    if rows <= most:
        return size(rows, manifest.chunk_rows)
    half = max(1, most // 2)
    whole, part = size(most, most), size(half, half)
    per_row = (whole - part) / (most - half) if most > half else whole / most
    return whole + per_row * (rows - most)


def _sample_tables(
    manifest: Manifest, samples: Samples, class_groups: np.ndarray, statistics: pa.Table
) -> Iterable[pa.Table]:
    """Some of the store's samples tables: true rows, ids, labels and groups; what the teacher says, drawn anew.

    Numbers are drawn between the pilot's (their quantile function at random places): drawn from the pilot's themselves
    they would repeat, and compress better than real ones.
    """
    generator, groups = np.random.default_rng(0), np.array(group_names(class_groups))
    label, top1 = (statistics[name].to_numpy() for name in ("label", "teacher_top1"))
    by_label = np.argsort(label, kind="stable")
    ordered = label[by_label]
    for block in _spread(manifest.grid.chunks_per_view):
        rows = manifest.grid.rows(block)
        labels = samples.labels[rows.start : rows.stop]
        low, high = np.searchsorted(ordered, labels, "left"), np.searchsorted(ordered, labels, "right")
        # of a class that the pilot has not, the next class's
        places = low + (generator.random(len(rows)) * np.maximum(high - low, 1)).astype(np.int64)
        said = np.where(high > low, top1[by_label[np.minimum(places, len(top1) - 1)]], labels)
        numbers = {
            name: np.quantile(statistics[name].to_numpy(), generator.random(len(rows))).astype(np.float32)
            for name in ("teacher_confidence", "teacher_entropy")
        }
        ids = samples.sample_ids[rows.start : rows.stop]
        yield samples_table(rows, ids, labels, groups[labels], teacher_top1=said, **numbers)


def _receipt(manifest: Manifest, chunk: int) -> Receipt:
    """A chunk's receipt with made-up checksums and sizes of the right length."""
    grid = manifest.grid
    rows, view, block = grid.rows(chunk), grid.view(chunk), grid.block(chunk)
    uncompressed = grid.chunk_rows * max(array.row_bytes for array in manifest.arrays)
    sizes = {path: size or uncompressed for path, size in payload_layout(manifest).chunk_sizes(chunk).items()}
    if view == 0:
        sizes[samples_file(block)] = 20 * len(rows)
    return Receipt(
        chunk=chunk,
        view=view,
        start=rows.start,
        stop=rows.stop,
        files=tuple(FileRecord(path=path, bytes=size, checksum=_CHECKSUM) for path, size in sizes.items()),
        inputs=tuple(InputDigest(row=int(row), digest=_DIGEST) for row in digest_rows(rows)),
    )


def _finished(manifest: Manifest) -> Manifest:
    """The manifest as it will be, with a made-up accuracy and checksums."""
    accuracy = Accuracy(**{field.name: 0.1234567890123456 for field in dataclasses.fields(Accuracy)})
    return manifests.replace(
        manifest,
        state="complete",
        finished=manifest.created,
        accuracy=accuracy,
        files=tuple(record_of(name, b"1234") for name in standing_files(manifest)),
        receipts=_CHECKSUM,
    )


def _spread(count: int) -> list[int]:
    """At most 32 numbers below ``count``, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, _MADE).round().astype(np.int64)).tolist()
