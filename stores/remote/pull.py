"""Pulling a store, or a part of it that is a valid store by itself, to a local folder.

Every object is compared with its receipt before it is written. Until the manifest, which comes last, ``pull.json`` says
what the folder is becoming; the same pull, run again, fetches what is missing and nothing else. A whole store brings
its card along; that of a part would tell of another store.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import msgspec
import pyarrow as pa

from ..claims import living_claims
from ..errors import CorruptStoreError, MismatchError, RefusedError
from ..files import FileRecord, create_file, is_temporary, place_file, remove_temporaries, write_file
from ..layout import CLASSES, MANIFEST, receipt_file, samples_file
from ..manifest import Checksum, Digest, Manifest, Parent, Receipt
from ..payload.layout import payload_layout
from ..tables import CLASSES_SCHEMA, SAMPLES_SCHEMA, read_parquet, to_parquet
from ..writer import documents_checksum, receipts_checksum, timestamp
from .location import Location
from .objects import Objects, open_objects
from .push import content_of
from .reading import MEND, read_card, read_manifest, read_object, read_receipt
from .selection import Part, Selection
from .transfer import Transfers, in_parallel, results

MARK = "pull.json"


@dataclass(frozen=True, kw_only=True)
class PullMark:
    """What a folder is becoming: ``pull.json``, until the manifest is there.

    Attributes:
        store_id: of the store that is pulled.
        content: names its content, see :func:`.push.content_of`.
        parent: what is taken of it; None for all.
    """

    store_id: Digest
    content: Checksum
    parent: Parent | None


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull did.

    Attributes:
        path: the folder of the store.
        store_id: of the store there.
        receipts: the checksum over its receipts.
        bytes: of all its files but receipts, card and manifest.
        bytes_fetched: of those that were not there yet.
        finished_before: whether the folder held the store already; nothing was then changed.
    """

    path: str
    store_id: str
    receipts: str | None
    bytes: int = 0
    bytes_fetched: int = 0
    finished_before: bool = False


def pull(
    url: str | os.PathLike[str],
    path: str | os.PathLike[str],
    selection: Selection | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Pulled:
    """Copy a finished store, or a part of it, to a folder; run again, it goes on.

    Args:
        url: where the store is.
        path: the folder; it is made, or goes on from an interrupted pull of the same.
        selection: what to take; all by default.
        on_progress: called with the bytes that are here, and of all whose receipts are.

    Raises:
        CorruptStoreError: there is no store, or an object is missing or not what its receipt says.
        RefusedError: the store is not finished, or the folder holds something else.
        UsageError, MissingArrayError: the store has not what is selected.
        KdpipeError: the server cannot be reached, or does not let us read.
    """
    root, objects = Path(path), open_objects(Location.parse(url))
    manifest, document = read_manifest(objects)
    part = (selection or Selection()).of(manifest)
    mark = PullMark(
        store_id=manifest.store_id, content=content_of(manifest), parent=None if part.is_whole else part.parent
    )
    if (found := _finished(root, manifest, mark)) is not None:
        (root / MARK).unlink(missing_ok=True)  # a kill may have come between the manifest and this
        return Pulled(path=str(root), store_id=found.store_id, receipts=found.receipts, finished_before=True)
    _make_ours(root, mark)
    return _Pull(root, objects, part, on_progress).run(document)


def _finished(root: Path, theirs: Manifest, mark: PullMark) -> Manifest | None:
    """The manifest of the folder if it holds what is to be pulled, or None if that is not finished.

    Raises:
        MismatchError: it is the folder of another store.
        RefusedError: it is being written at this moment.
    """
    if not (root / MANIFEST).exists():
        return None
    if claims := living_claims(root):
        raise RefusedError(f"{root} is being written by {claims[0]}. Wait for it, or choose another folder.")
    ours = Manifest.read(root)
    same = ours.parents == (mark.parent,) if mark.parent else ours.store_id == theirs.store_id
    if ours.state == "complete" and mark.parent is None:
        same = content_of(ours) == mark.content
    if not same:
        raise MismatchError(f"{root} holds another store ({ours.store_id}), or another part. Choose another folder.")
    return ours if ours.state == "complete" else None


def _make_ours(root: Path, mark: PullMark) -> None:
    """Say in the folder what it is becoming.

    Raises:
        MismatchError: another pull was begun there.
        RefusedError: something that is not a store is there.
    """
    if not (root / MARK).exists() and _is_foreign(root):
        raise RefusedError(f"{root} exists and is not a kdpipe store. Choose another folder.")
    if not create_file(root, MARK, msgspec.json.encode(mark)):
        try:
            found = msgspec.json.decode((root / MARK).read_bytes(), type=PullMark)
        except msgspec.DecodeError:
            found = None
        if found != mark:
            raise MismatchError(f"Another pull was begun in {root}. Finish that one, or choose another folder.")
    remove_temporaries(root)


def _is_foreign(root: Path) -> bool:
    """Whether something is there that neither a store nor a pull has begun."""
    if not root.exists() or (root / MANIFEST).exists():
        return False
    return not root.is_dir() or not all(map(is_temporary, root.iterdir()))


class _Pull:
    """One pull of one part."""

    def __init__(self, root: Path, objects: Objects, part: Part, on_progress: Callable[[int, int], None]) -> None:
        self._root, self._objects, self._part, self._on_progress = root, objects, part, on_progress
        self._receipts: dict[int, tuple[Receipt, bytes]] = {}
        self._rewritten: dict[str, FileRecord] = {}
        self._done = self._fetched = self._total = 0

    def run(self, document: bytes) -> Pulled:
        """Fetch and finish; ``document`` is the manifest of the whole store, as it lies there."""
        with Transfers() as aside:
            card = aside.submit(lambda: read_card(self._objects) if self._part.is_whole else {}, 0)
            return self._run(document, card)

    def _run(self, document: bytes, card: "Future[dict[str, memoryview]]") -> Pulled:
        part = self._part
        if part.is_whole:
            manifest = part.whole
            self._fetch_all(chain(((record.path, record) for record in manifest.files), self._arriving()))
            self._check_receipts(self._receipts[chunk][1] for chunk in sorted(self._receipts))
        else:
            self._check_receipts(self._all_receipts())
            manifest = self._write_skeleton()
            self._fetch_all(file for chunk in sorted(self._receipts) for file in self._files(chunk))
        in_parallel(sorted(self._receipts), self._write_receipt)
        if part.is_whole:
            self._write_card(card.result())
            write_file(self._root, MANIFEST, document)
        else:
            receipts = receipts_checksum(self._root, manifest)
            manifest = dataclasses.replace(manifest, state="complete", finished=timestamp(), receipts=receipts)
            manifest.write(self._root)
        (self._root / MARK).unlink(missing_ok=True)
        return Pulled(
            path=str(self._root),
            store_id=manifest.store_id,
            receipts=manifest.receipts,
            bytes=self._total,
            bytes_fetched=self._fetched,
        )

    # --- receipts

    def _read_receipt(self, chunk: tuple[int, int]) -> tuple[Receipt, bytes]:
        return read_receipt(self._objects, self._part.whole, chunk[1])

    def _keep_receipt(self, chunk: tuple[int, int], receipt: tuple[Receipt, bytes]) -> None:
        self._receipts[chunk[0]] = receipt

    def _all_receipts(self) -> Iterator[bytes]:
        """Those of the whole store, in their order; the part's are kept."""
        here = {there: here for here, there in self._part.chunks()}
        chunks = ((here.get(there, -1), there) for there in range(self._part.whole.grid.num_chunks))
        for chunk, receipt in results(chunks, self._read_receipt):
            if chunk[0] >= 0:
                self._keep_receipt(chunk, receipt)
            yield receipt[1]

    def _check_receipts(self, documents: Iterable[bytes]) -> None:
        """All receipts together, and only together, are those that the manifest names."""
        if documents_checksum(documents) != self._part.whole.receipts:
            raise CorruptStoreError(f"The receipts at {self._objects.location} are not those of its manifest. {MEND}")

    def _write_receipt(self, chunk: int) -> None:
        receipt, document = self._receipts[chunk]
        if self._part.is_whole:
            write_file(self._root, receipt_file(chunk), document)
        else:
            self._part.receipt(chunk, receipt, [record for _, record in self._files(chunk)]).write(self._root)

    # --- files

    def _arriving(self) -> Iterator[tuple[str, FileRecord]]:
        """The files of every chunk, when its receipt is here: they are fetched while other receipts still come."""
        for chunk, receipt in results(self._part.chunks(), self._read_receipt):
            self._keep_receipt(chunk, receipt)
            yield from self._files(chunk[0])

    def _fetch_all(self, files: Iterable[tuple[str, FileRecord]]) -> None:
        def announced() -> Iterator[tuple[str, FileRecord]]:
            for file in files:
                self._total += file[1].bytes
                yield file

        in_parallel(announced(), self._fetch, size=lambda file: file[1].bytes, on_done=self._count)

    def _files(self, chunk: int) -> list[tuple[str, FileRecord]]:
        """The files of a chunk: where they are there, and what they must be here."""
        files = self._part.files(chunk, self._receipts[chunk][0])
        return [(source, self._rewritten.get(record.path, record)) for source, record in files]

    def _fetch(self, file: tuple[str, FileRecord]) -> bool:
        """Whether the file had to be fetched; it is here when this returns."""
        source, record = file
        if record.is_met(self._root):
            return False
        place_file(self._root, record.path, read_object(self._objects, source, record))
        return True

    def _count(self, file: tuple[str, FileRecord], fetched: bool) -> None:
        self._done += file[1].bytes
        self._fetched += file[1].bytes if fetched else 0
        self._on_progress(self._done, self._total)

    def _write_card(self, card: dict[str, memoryview]) -> None:
        """Write the card, unless one is here."""
        for name, data in card.items():
            if not (self._root / name).exists():
                write_file(self._root, name, data)

    # --- a part: what belongs to no chunk is made anew

    def _write_skeleton(self) -> Manifest:
        """Class table and Zarr metadata of the part; returns its manifest."""
        part, root = self._part, self._root
        samples = None if part.takes_all_rows else self._write_samples()
        record = next((record for record in part.whole.files if record.path == CLASSES), None)
        if record is None:
            raise CorruptStoreError(f"The manifest at {self._objects.location} does not list {CLASSES}. {MEND}")
        write_file(root, CLASSES, read_object(self._objects, CLASSES, record))
        documents = {CLASSES: (root / CLASSES).read_bytes()}
        if samples is not None:
            classes = read_parquet(root / CLASSES, CLASSES_SCHEMA, part.whole.num_classes)
            documents[CLASSES] = to_parquet(part.classes(classes, samples))
        manifest = part.manifest(samples)
        layout = payload_layout(manifest)
        documents |= layout.documents()
        records = [write_file(root, name, data) for name, data in documents.items()]
        if manifest.constants:  # arrays that are there once, for all rows, are taken as they are
            files = set(map(layout.constant_file, manifest.constants))
            constants = [record for record in part.whole.files if record.path in files]
            in_parallel([(record.path, record) for record in constants], self._fetch)
            records += constants
        return dataclasses.replace(manifest, files=tuple(records))

    def _write_samples(self) -> pa.Table:
        """The samples tables with rows counted from the part's first; returns sample_id and label of all."""
        part, tables = self._part, []
        for block in range(part.grid.chunks_per_view):
            name = samples_file(block)
            source, record = next((one for one in self._files(block) if one[1].path == name), (None, None))
            if source is None or record is None:
                raise CorruptStoreError(f"The receipts at {self._objects.location} list no {name}. {MEND}")
            write_file(self._root, name, read_object(self._objects, source, record))
            table = part.samples(read_parquet(self._root / name, SAMPLES_SCHEMA, len(part.grid.rows(block))))
            if part.start:
                self._rewritten[name] = write_file(self._root, name, to_parquet(table))
            tables.append(table.select(["sample_id", "label"]))
        return pa.concat_tables(tables)
