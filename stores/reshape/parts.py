"""Merging parts of one store that were made in different folders: further views, or other ranges of chunks.

A view is drawn from its number, and a chunk depends on nothing but its number, so that the parts together are, byte for
byte, what one extraction would have made.
"""

import dataclasses
from collections.abc import Callable, Sequence
from os import PathLike

from ..derive import check_apart, derive
from ..errors import RefusedError
from ..manifest import Manifest
from ..reader import Store
from ..writer import StoreWriter
from .linking import link_file


def are_parts(stores: Sequence[Store]) -> bool:
    """Whether these are parts of one store: of the same id, but not each of them all of it."""
    manifests = [store.manifest for store in stores]
    if len({manifest.store_id for manifest in manifests}) > 1:
        return False
    return len({manifest.num_views for manifest in manifests}) > 1 or any(m.state != "complete" for m in manifests)


def merge_parts(
    stores: Sequence[Store],
    out: str | PathLike[str],
    *,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Put the chunks of one store into one folder; run again, it goes on.

    Args:
        stores: parts, finished or not, local or remote; a chunk that several have is taken from the first.
        out: the folder of the whole store. Its files are links to those of the parts where the file system has them.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store, which has the id of its parts, and no parents.

    Raises:
        RefusedError: chunks are in none of the parts.
        MismatchError: other versions of libraries drew the views of one of them.
        CorruptStoreError: a file is not what its receipt says; the store stays unfinished.
    """
    check_apart(out, stores)
    first, widest = stores[0], max(stores, key=lambda store: store.manifest.num_views)
    for store in stores:
        if store.manifest.probe is not None and first.manifest.probe is not None:
            store.manifest.probe.check(first.manifest.probe, str(store))
    grid = widest.manifest.grid
    owners = {chunk: _owner(stores, chunk) for chunk in range(grid.num_chunks)}
    if missing := [chunk for chunk, owner in owners.items() if owner is None]:
        chunk, rows = missing[0], grid.rows(missing[0])
        raise RefusedError(
            f"{len(missing):,} of {grid.num_chunks:,} chunks are in none of these stores, such as that of view "
            f"{grid.view(chunk)}, rows {rows.start:,} to {rows.stop - 1:,}. Extract them, or give the store that has "
            "them."
        )

    def write_chunk(writer: StoreWriter, chunk: int) -> None:
        store = owners[chunk] or first
        receipt = store.receipt(chunk)
        for record in receipt.files:
            link_file(store, writer.root, record)
        receipt.write(writer.root)

    begun = {"state": "writing", "finished": None, "accuracy": None, "files": (), "receipts": None}
    manifest = dataclasses.replace(first.manifest, num_views=widest.manifest.num_views, **begun)
    return derive(out, manifest, first.classes, write_chunk, constants=first.constants, on_progress=on_progress)


def _owner(stores: Sequence[Store], chunk: int) -> Store | None:
    """The first store that has a chunk; chunks of further views come after all others, and change no number."""
    return next((s for s in stores if chunk < s.manifest.grid.num_chunks and s.has_receipt(chunk)), None)
