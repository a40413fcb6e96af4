"""Making a store from others: its manifest names them, and every missing chunk is made and written, one at a time.

Interrupted, the same call goes on with the chunks that are missing; several processes may share the work.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .. import __version__
from . import manifest as manifests
from .accuracy import stored_accuracy
from .arrays import GROUP_NAMES
from .checks.content import labels_fingerprint
from .checks.verify import verify
from .claims import ChunkClaims
from .errors import CorruptStoreError, UsageError
from .layout import samples_file
from .manifest import DatasetInfo, Manifest, Parent, fingerprint
from .reader import Store, open_store
from .writer import StoreWriter, timestamp

_WAIT_SECONDS = 0.5


def open_source(path: str | PathLike[str]) -> Store:
    """Open a store to derive another from: finished, and every file compared with its checksum before its first use.

    Raises:
        CorruptStoreError, RefusedError, MissingExtraError, KdpipeError: as :func:`kdpipe.stores.open_store`.
    """
    return open_store(path, verify=True)


def parent_of(manifest: Manifest, change: str) -> Parent:
    """The record of a store that another is made from.

    Args:
        manifest: of the finished store.
        change: what is done to it, in words that decide the result: two stores whose parents and changes agree hold
            the same.
    """
    return Parent(store_id=manifest.store_id, receipts=manifest.receipts, change=change, parents=manifest.parents)


def derived_manifest(manifest: Manifest, parents: Sequence[Parent], **changes: Any) -> Manifest:
    """The manifest of a store made from others, before its first chunk: with its own store id.

    Args:
        manifest: what it is like: the teacher, the preprocessing, owner, licence and so on stay.
        parents: of :func:`parent_of`.
        changes: the fields in which it differs.

    Raises:
        UsageError: the fields contradict each other.
    """
    begun = {"state": "writing", "created": timestamp(), "finished": None, "kdpipe_version": __version__}
    emptied = {"accuracy": None, "files": (), "receipts": None}
    return manifests.replace(manifest, **{**begun, **emptied, "parents": tuple(parents), **changes})


def dataset_of(dataset: DatasetInfo, samples: pa.Table) -> DatasetInfo:
    """A data set's record with the fingerprints of these samples (their sample_id and label), in row order."""
    return dataclasses.replace(
        dataset,
        sample_ids=fingerprint(samples["sample_id"].to_pylist()),
        labels=labels_fingerprint(samples["label"].to_numpy()),
    )


def source_samples(store: Store) -> pa.Table:
    """The samples tables of a store as one, each compared with its receipt.

    Raises:
        CorruptStoreError: one is missing, or not what was written.
    """
    samples = store.samples()  # of a remote store, this fetches them
    for block in range(store.manifest.grid.chunks_per_view):
        name = samples_file(block)
        record = next((one for one in store.receipt(block).files if one.path == name), None)
        if record is None or not record.is_met(store.path):
            raise CorruptStoreError(
                f"{store.path / name} is not what its receipt says. Look with: kdpipe store verify --deep {store}."
            )
    return samples


def derive(
    out: str | PathLike[str],
    manifest: Manifest,
    classes: pa.Table,
    write_chunk: Callable[[StoreWriter, int], object],
    *,
    constants: Mapping[str, np.ndarray] | None = None,
    deep: bool = True,
    by_block: bool = False,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Write a store made from others: every chunk that is missing, then verify it, then finish it.

    Args:
        out: the folder of the new store; one that was begun with the same settings and parents is gone on with, and a
            finished one is left as it is.
        manifest: of :func:`derived_manifest`.
        classes: classes.parquet.
        write_chunk: writes one chunk, by ``writer.write_chunk(chunk, arrays, samples, inputs)``; what it gives back
            is not used. It is called for one chunk at a time, in any order, and must write the same bytes every time.
        constants: the arrays that the codec stores once.
        deep: verify by reading every byte; else by receipts, sizes and table footers.
        by_block: make all views of some rows before the next rows, where reading rows is what takes time.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store.

    Raises:
        MismatchError: a store with other settings or parents is there.
        RefusedError: something that is not a store is there.
        CorruptStoreError: what was written is not whole, or contradicts itself; the store stays unfinished.
        KdpipeError, OSError: whatever ``write_chunk`` raises; whole chunks stay.
    """
    root = Path(out)
    writer = StoreWriter.open(root, manifest, classes, constants)
    if writer.complete:
        return writer.manifest
    _write_missing(writer, write_chunk, on_progress, by_block=by_block)
    wrong = [finding for finding in verify(root, deep=deep).errors if finding.check != "unfinished"]
    if wrong:
        raise CorruptStoreError(
            f"{root / wrong[0].path}: {wrong[0].problem} ({len(wrong)} finding(s)). The store was not finished: run "
            f"kdpipe store repair {root}, then the same command again."
        )
    groups = np.array([GROUP_NAMES.index(group) for group in classes["group"].to_pylist()])
    return writer.finish(stored_accuracy(root, writer.manifest, groups))


def check_apart(out: str | PathLike[str], sources: Sequence[Store]) -> None:
    """See that a store is not written over one that it is made from.

    Raises:
        UsageError: it would be.
    """
    for source in sources:
        if not source.remote and Path(out).resolve() == source.path.resolve():
            raise UsageError(f"{out} is the store itself: a store never changes. Give another --out.")


def _write_missing(
    writer: StoreWriter,
    write_chunk: Callable[[StoreWriter, int], object],
    on_progress: Callable[[int, int], None],
    *,
    by_block: bool,
) -> None:
    """Write every chunk that is missing; wait for those that other processes are making."""
    claims, total = ChunkClaims(writer.root), writer.manifest.grid.num_chunks
    try:
        while missing := writer.missing_chunks():
            done = total - len(missing)
            for chunk in sorted(missing, key=writer.manifest.grid.block) if by_block else missing:
                if not claims.take(chunk):
                    continue
                if not writer.is_whole(chunk):  # another process may have made it since we looked
                    write_chunk(writer, chunk)
                    if not writer.is_whole(chunk):  # else it would be made again for ever
                        raise CorruptStoreError(f"{writer.root}: chunk {chunk} is not whole when just written.")
                claims.release(chunk)
                done += 1
                on_progress(done, total)
            if done == total - len(missing):
                time.sleep(_WAIT_SECONDS)
    finally:
        claims.release_all()
