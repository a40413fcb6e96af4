"""Push and pull in another codec: a copy in that codec is made beside the store, and removed when all is done.

Both parts go on where they were interrupted, and both are proved like any push, pull or derived store.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from ..codecs import Codec
from ..errors import MismatchError, UsageError
from ..layout import MANIFEST
from ..manifest import Manifest
from ..reshape.recode import recode, target_codec
from .location import Location, is_url
from .objects import open_objects
from .pull import Pulled, pull
from .push import Pushed, push
from .reading import read_manifest
from .selection import Part, Selection


def push_recoded(
    path: str | PathLike[str],
    url: str | PathLike[str],
    codec: str,
    *,
    scratch: Path | None = None,
    alone: bool = False,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Pushed:
    """Push a store in another codec; run again, it goes on.

    Args:
        path: the folder of the store, or its address.
        url: where it is to be.
        codec: of the store there.
        scratch: the folder in which the copy is made; by default that in which the store's folder lies.
        alone: as of :func:`~.push.push`.
        on_progress: called with the bytes that are there, and of all.

    Raises:
        UsageError, MissingArrayError, RefusedError, BadLogitsError, CorruptStoreError: as of
            :func:`~kdpipe.stores.reshape.recode.recode` and :func:`~.push.push`.
        KdpipeError: the server cannot be reached, or does not let us write.
    """
    location = Location.parse(url)
    if not location.is_writable:
        raise UsageError(f"{location} is read only. Push to s3://, gs://, az:// or a folder.")
    if is_url(path) and scratch is None:
        raise UsageError(f"{Location.parse(path)} is an address: give a folder for the copy with --scratch DIR.")
    copy = _place(Path(path), codec, scratch)
    recode(path, copy, codec)
    pushed = push(copy, url, alone=alone, on_progress=on_progress)
    shutil.rmtree(copy)
    return pushed


def pull_recoded(
    url: str | PathLike[str],
    path: str | PathLike[str],
    codec: str,
    selection: Selection | None = None,
    *,
    scratch: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Pulled:
    """Pull a store, or a part of it, and keep it in another codec; run again, it goes on.

    Args:
        url: where the store is.
        path: the folder that it is to become.
        codec: of the store there.
        selection: what to take; all by default.
        scratch: the folder in which the store is kept as it comes; by default that of ``path``.
        on_progress: called with the bytes that are here, and of all.

    Raises:
        MismatchError: the folder holds another store.
        UsageError, MissingArrayError, RefusedError, BadLogitsError, CorruptStoreError: as of :func:`~.pull.pull` and
            :func:`~kdpipe.stores.reshape.recode.recode`.
        KdpipeError: the server cannot be reached, or does not let us read.
    """
    root, location = Path(path), Location.parse(url)
    theirs, _ = read_manifest(open_objects(location))
    part = (selection or Selection()).of(theirs)
    taken = theirs if part.is_whole else part.manifest(None)
    wanted = target_codec(taken, codec, str(location))
    copy = _place(root, "pulled", scratch)
    if (found := _finished(root, part, wanted)) is not None:
        shutil.rmtree(copy, ignore_errors=True)  # a kill may have come between the manifest and this
        return Pulled(path=str(root), store_id=found.store_id, receipts=found.receipts, finished_before=True)
    pulled = pull(url, copy, selection, on_progress=on_progress)
    made = recode(copy, root, codec)
    shutil.rmtree(copy)
    return replace(pulled, path=str(root), store_id=made.store_id, receipts=made.receipts, finished_before=False)


def _place(store: Path, purpose: str, scratch: Path | None) -> Path:
    """Where the copy of a store is made: the same place for the same purpose, so that it is gone on with."""
    return (scratch or store.absolute().parent) / f".{store.name}.{re.sub(r'[^A-Za-z0-9.+]+', '-', purpose)}"


def _finished(root: Path, part: Part, codec: Codec) -> Manifest | None:
    """The manifest of the folder if it holds this part in this codec, or None if that is not finished.

    Raises:
        MismatchError: it is another store.
    """
    if not (root / MANIFEST).exists():
        return None
    ours, source = Manifest.read(root), part.whole
    if not part.is_whole:
        same = [parent.parents for parent in ours.parents] == [(part.parent,)]
    else:
        same = [(one.store_id, one.receipts) for one in ours.parents] == [(source.store_id, source.receipts)]
    if not same or ours.logit_codec != codec:
        raise MismatchError(f"{root} holds another store ({ours.store_id}), or another part. Choose another folder.")
    return ours if ours.state == "complete" else None
