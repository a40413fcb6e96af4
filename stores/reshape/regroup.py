"""Other class groups for a store: its payload stays what it is, file by file."""

import dataclasses
from collections.abc import Callable
from os import PathLike

import numpy as np

from ..arrays import GROUP_NAMES
from ..derive import check_apart, derive, derived_manifest, open_source, parent_of, source_samples
from ..errors import RefusedError, UsageError
from ..files import write_file
from ..groups import assign_groups, group_names
from ..layout import samples_file
from ..manifest import Manifest
from ..tables import to_parquet
from ..writer import StoreWriter
from .gather import with_column
from .linking import link_file


def regroup(
    path: str | PathLike[str],
    out: str | PathLike[str],
    groups: str,
    *,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Write a store with other class groups; run again, it goes on.

    Groups are in the class table, in every samples table, and by their checksums in every receipt, so that the store
    is another one. Payload files are hard links to those of the store (of a remote one, to the cache's) where the file
    system has them, else copies; their checksums are taken over, not computed again.

    Args:
        path: a finished store, local or remote.
        out: the folder of the new store.
        groups: the rule, see :func:`~kdpipe.stores.groups.assign_groups`; it sees the counts of the class table.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store.

    Raises:
        UsageError: the rule cannot be read, or changes nothing.
        RefusedError: the store is not finished; or it has stored sums over the old groups.
        CorruptStoreError: a table of the store is not what was written, or a payload file has another size.
    """
    store = open_source(path)
    check_apart(out, [store])
    counts = store.classes["count"].to_numpy()
    new, rule = assign_groups(groups, counts, store.class_names)
    changed = np.flatnonzero(new != store.class_groups)
    if not len(changed) and rule == store.manifest.group_rule:
        raise UsageError(f"{store} has these groups already ({rule}).")
    if len(changed) and store.manifest.array("group_logsumexp") is not None:
        raise RefusedError(
            f"The codec {store.manifest.codec} has stored sums over the groups {', '.join(GROUP_NAMES)} that the store "
            f"was made with; {len(changed)} of {len(new)} classes would change theirs. Extract again with --groups."
        )
    change = f"regrouped: {rule} in the place of {store.manifest.group_rule}, {len(changed)} classes in other groups"
    manifest = derived_manifest(store.manifest, [parent_of(store.manifest, change)], group_rule=rule)
    names = group_names(new)
    samples = source_samples(store)
    samples = with_column(samples, "group", np.array(names)[samples["label"].to_numpy()])

    def write_chunk(writer: StoreWriter, chunk: int) -> None:
        receipt = store.receipt(chunk)
        table = samples_file(writer.manifest.grid.block(chunk))
        files = [link_file(store, writer.root, record) for record in receipt.files if record.path != table]
        if receipt.view == 0:
            rows = samples.slice(receipt.start, receipt.stop - receipt.start)
            files.append(write_file(writer.root, table, to_parquet(rows)))
        dataclasses.replace(receipt, files=tuple(files)).write(writer.root)

    # checksums of the payload were taken over with its files: reading it again would prove nothing about this
    classes = with_column(store.classes, "group", names)
    return derive(out, manifest, classes, write_chunk, constants=store.constants, deep=False, on_progress=on_progress)
