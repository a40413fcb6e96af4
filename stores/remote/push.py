"""Pushing a finished store to a place that others can read.

Every object is compared with its receipt before it leaves and after it has arrived. The manifest comes last, by a write
that fails if one is there, so that a reader never sees half a store. Before the first byte of payload the place is
claimed by ``push.json``, written in the same way: of two pushers of different content one is refused before it changes
anything, and two of the same content help each other. A card goes along; it is no part of the store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike

import msgspec

from ..cards.card import store_of_card
from ..errors import CorruptStoreError, KdpipeError, RefusedError, UsageError
from ..files import FileRecord, checksum, record_of
from ..layout import CARD, CARD_FILES, MANIFEST, receipt_file
from ..manifest import MAX_DOCUMENT_BYTES, Checksum, Digest, Manifest, Receipt
from ..writer import documents_checksum
from .client import proves
from .location import Location
from .objects import Found, Objects, open_objects
from .reading import read_card, read_manifest, read_object, read_receipt
from .transfer import in_parallel

CLAIM = "push.json"


@dataclass(frozen=True, kw_only=True)
class PushClaim:
    """What is being pushed to a place: ``push.json`` says it until the manifest is there.

    Attributes:
        store_id: of the store.
        content: names its content, see :func:`content_of`.
    """

    store_id: Digest
    content: Checksum


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did.

    Attributes:
        url: where the store is now.
        store_id: of the store.
        receipts: the checksum over its receipts: compare it to know that you read this store.
        bytes: of all objects but the manifest and the card.
        bytes_sent: of those that were not there, or not as they must be.
        finished_before: whether the store was there already, by this or another push.
    """

    url: str
    store_id: str
    receipts: str | None
    bytes: int
    bytes_sent: int
    finished_before: bool


def push(
    path: str | PathLike[str],
    url: str | PathLike[str],
    *,
    alone: bool = False,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Pushed:
    """Copy a finished store; run again, it goes on, and of a store that is there it proves every object.

    Args:
        path: the folder of the store, or its address.
        url: where it is to be; objects will lie right below it.
        alone: nobody else writes there: push to a server that knows no conditional writes.
        on_progress: called with the bytes that are there, and of all.

    Raises:
        RefusedError: the store is not finished; another store is there, or is being pushed there; or the server knows
            no conditional writes.
        CorruptStoreError: a file is not what its receipt says; nothing of it was sent.
        UsageError: the address cannot be written to.
        KdpipeError: the server cannot be reached, or does not let us write.
    """
    location = Location.parse(url)
    if not location.is_writable:
        raise UsageError(f"{location} is read only. Push to s3://, gs://, az:// or a folder.")
    return _Push(open_objects(Location.parse(path)), open_objects(location), on_progress).run(alone=alone)


def content_of(manifest: Manifest) -> str:
    """The checksum over everything a finished store holds beside its manifest."""
    return checksum(msgspec.json.encode([manifest.receipts, manifest.files], order="deterministic"))


class _Push:
    """One push of one store."""

    def __init__(self, source: Objects, objects: Objects, on_progress: Callable[[int, int], None]) -> None:
        self._source, self._objects, self._on_progress = source, objects, on_progress
        self._manifest, self._document = read_manifest(source)
        self._claim = PushClaim(store_id=self._manifest.store_id, content=content_of(self._manifest))
        self._card = read_card(source)
        self._look = f"It was not sent. Look: kdpipe store verify --deep {source.location}."
        self._done = self._sent = self._total = 0
        self._found: dict[str, Found] = {}

    def run(self, *, alone: bool) -> Pushed:
        payload, receipts = self._records()
        finished = self._is_finished()
        self._found = self._objects.found()
        if not finished:
            self._check_place({record.path for record in (*payload, *receipts)})
            self._take_claim(alone=alone)
        self._total = sum(record.bytes for record in (*payload, *receipts))
        self._send(payload)
        self._send(receipts)
        self._send_card()
        if not finished:
            finished = self._finish()
        elif CLAIM in self._found:  # a kill came between the manifest and this
            self._objects.delete(CLAIM)
        return Pushed(
            url=str(self._objects.location),
            store_id=self._manifest.store_id,
            receipts=self._manifest.receipts,
            bytes=self._total,
            bytes_sent=self._sent,
            finished_before=finished,
        )

    def _records(self) -> tuple[list[FileRecord], list[FileRecord]]:
        """All files of the store but its manifest: (payload and what belongs to no chunk, receipts)."""
        payload, receipts = list(self._manifest.files), list[FileRecord]()
        documents: list[bytes] = []

        def keep(chunk: int, read: tuple[Receipt, bytes]) -> None:
            payload.extend(read[0].files)
            receipts.append(record_of(receipt_file(chunk), read[1]))
            documents.append(read[1])

        chunks = range(self._manifest.grid.num_chunks)
        in_parallel(chunks, lambda chunk: read_receipt(self._source, self._manifest, chunk, self._look), on_done=keep)
        if documents_checksum(documents) != self._manifest.receipts:
            raise CorruptStoreError(
                f"The receipts of {self._source.location} are not those it was finished with. {self._look}"
            )
        return payload, receipts

    # --- the place: free, ours, or another's

    def _is_finished(self) -> bool:
        """Whether this very store is there already.

        Raises:
            RefusedError: another store is there.
            CorruptStoreError: a manifest is there that cannot be read.
        """
        data = self._objects.read(MANIFEST, limit=MAX_DOCUMENT_BYTES)
        if data is None:
            return False
        place = self._objects.location
        there = Manifest.parse(data, f"{place}/{MANIFEST}")
        if content_of(there) != self._claim.content:
            raise RefusedError(
                f"{place} already holds another store ({there.store_id}; {self._source.location} is "
                f"{self._manifest.store_id}), or one of other content. Nothing was changed: choose another address."
            )
        return True

    def _check_place(self, paths: set[str]) -> None:
        """See that nothing else lies there: a folder of stores is easily given for the store itself.

        Raises:
            RefusedError: something else does.
        """
        if self._is_claimed():
            return
        strangers = self._found.keys() - paths - {CLAIM, MANIFEST}
        if strangers and not (strangers <= set(CARD_FILES) and self._has_own_card()):
            place, name = self._objects.location, str(self._source.location).rstrip("/").rpartition("/")[2]
            raise RefusedError(
                f"{place} holds {len(strangers):,} objects that are not of this store, such as {min(strangers)}. "
                f"Nothing was changed: give an address for the store alone, such as {place}/{name}."
            )

    def _has_own_card(self) -> bool:
        """Whether the card that lies there is this store's: it may have been put there first."""
        if CARD not in self._found or self._found[CARD].bytes > MAX_DOCUMENT_BYTES:
            return False
        there = self._objects.read(CARD, limit=MAX_DOCUMENT_BYTES) or b""
        is_named = store_of_card(bytes(there).decode(errors="replace")) == self._manifest.store_id
        return is_named or there == self._card.get(CARD)

    def _take_claim(self, *, alone: bool) -> None:
        """Make the place ours, or find that it is: a push of the same content was begun.

        Raises:
            RefusedError: it is another's, or the server lets two writers both believe that it is theirs.
        """
        data = msgspec.json.encode(self._claim)
        if self._is_claimed() or self._objects.create(CLAIM, data) is None:
            self._is_claimed()
            return
        if not alone and self._objects.create(CLAIM, data) is not None:
            self._objects.delete(CLAIM)
            raise RefusedError(
                f"{self._objects.location}: the server overwrites what it was told not to (no conditional writes), so "
                "that two pushes could mix. If nobody else writes there: --alone."
            )
        try:
            self._is_finished()  # another push may have ended between our first look and our claim
        except RefusedError:
            self._objects.delete(CLAIM)
            raise

    def _is_claimed(self) -> bool:
        """Whether a push of the same content was begun there.

        Raises:
            RefusedError: a push of other content was.
        """
        place = self._objects.location
        data = self._objects.read(CLAIM, limit=MAX_DOCUMENT_BYTES)
        if data is None:
            return False
        try:
            claim = msgspec.json.decode(data, type=PushClaim)
        except msgspec.DecodeError:
            claim = None
        if claim != self._claim:
            raise RefusedError(
                f"Another store{f' ({claim.store_id})' if claim else ''} is being pushed to {place}, or its push was "
                f"given up. Choose another address; or, if nobody pushes there, empty it, {CLAIM} last."
            )
        return True

    # --- objects

    def _send(self, records: Sequence[FileRecord]) -> None:
        in_parallel(records, self._send_one, size=lambda record: record.bytes, on_done=self._count)

    def _count(self, record: FileRecord, sent: bool) -> None:
        self._done += record.bytes
        self._sent += record.bytes if sent else 0
        self._on_progress(self._done, self._total)

    def _send_one(self, record: FileRecord) -> bool:
        """Whether the file had to be sent; it is there when this returns."""
        data = read_object(self._source, record.path, record, self._look)
        listed = self._found.get(record.path)
        if listed is not None and self._holds(listed, record, data):
            return False
        if listed is not None:
            written = self._objects.replace(record.path, data)
        else:
            written = self._objects.create(record.path, data)
        # None: another push of the same store wrote it since the place was listed
        self._prove(written or Found(bytes=record.bytes), record, data)
        return written is not None

    def _send_card(self) -> None:
        """The card, where the store has one; an older one there gives way."""
        for path, data in self._card.items():
            listed, record = self._found.get(path), record_of(path, data)
            if listed is None or not self._holds(listed, record, data):
                self._prove(self._objects.replace(path, data), record, data)

    def _prove(self, written: Found, record: FileRecord, data: bytes | memoryview) -> None:
        """See that what was written is there.

        Raises:
            KdpipeError: something else is.
        """
        if not self._holds(written, record, data):
            raise KdpipeError(
                f"{self._objects.location}/{record.path} is not what was sent: it was altered on its way, or somebody "
                "else writes there. Run the same command again."
            )

    def _holds(self, found: Found, record: FileRecord, data: bytes | memoryview) -> bool:
        """Whether an object is what its record says; where its tag does not prove that, it is read."""
        if proves(found, data):
            return True
        if found.bytes != record.bytes:
            return False
        there = self._objects.read(record.path, limit=record.bytes)
        return there is not None and checksum(there) == record.checksum

    def _finish(self) -> bool:
        """Write the manifest, if the place is still ours; returns whether another push of this store did."""
        if not self._is_claimed() and not self._is_finished():
            raise RefusedError(
                f"Somebody emptied {self._objects.location} while this push ran: {CLAIM} is gone. Run the same command "
                "again."
            )
        written = self._objects.create(MANIFEST, self._document)
        if written is not None:
            self._prove(written, record_of(MANIFEST, self._document), self._document)
        finished = written is None and self._is_finished()
        self._objects.delete(CLAIM)
        return finished
