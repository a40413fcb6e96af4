"""Reading what a finished store holds from a place: its manifest, its receipts, objects proved by them, its card."""

import logging

from ..errors import CorruptStoreError, KdpipeError, RefusedError
from ..files import FileRecord, checksum
from ..layout import CARD_FILES, MANIFEST, receipt_file
from ..manifest import MAX_DOCUMENT_BYTES, Manifest, Receipt
from ..payload.layout import standing_files
from .objects import Objects

MEND = "Whoever has the store can mend it: the same `kdpipe store push` again."

logger = logging.getLogger(__name__)


def read_manifest(objects: Objects) -> tuple[Manifest, bytes]:
    """The manifest of the finished store at a place, and its bytes.

    Raises:
        CorruptStoreError: there is none, or it is damaged, or it lists files that no store has.
        RefusedError: the store is not finished, or of a newer format version.
    """
    place = objects.location
    data = objects.read(MANIFEST, limit=MAX_DOCUMENT_BYTES)
    if data is None:
        raise CorruptStoreError(f"There is no kdpipe store at {place}, or its push is not finished: no {MANIFEST}.")
    manifest = Manifest.parse(data, f"{place}/{MANIFEST}")
    if manifest.state != "complete":
        maker = f"Its owner, {manifest.owner}," if manifest.owner else "Whoever makes it"
        raise RefusedError(
            f"The store at {place} is not finished. {maker} has to run the same {manifest.made_by} again."
        )
    if {record.path for record in manifest.files} != set(standing_files(manifest)):
        raise CorruptStoreError(
            f"{place}/{MANIFEST} does not list the files that a store has beside its chunks. {MEND}"
        )
    return manifest, bytes(data)


def read_receipt(objects: Objects, manifest: Manifest, chunk: int, advice: str = MEND) -> tuple[Receipt, bytes]:
    """A receipt of a store at a place, and its bytes.

    Raises:
        CorruptStoreError: it is missing, damaged or about another chunk.
    """
    path = receipt_file(chunk)
    data = objects.read(path, limit=MAX_DOCUMENT_BYTES)
    if data is None:
        raise CorruptStoreError(f"{objects.location}/{path} is missing. {advice}")
    return Receipt.parse(data, f"{objects.location}/{path}", manifest.grid, chunk), bytes(data)


def read_object(objects: Objects, path: str, record: FileRecord, advice: str = MEND) -> memoryview:
    """The bytes of an object, proved to be those of its record.

    Raises:
        CorruptStoreError: it is missing, or not what its record says; then ``advice`` says what to do.
    """
    data = objects.read(path, limit=record.bytes)
    if data is None or len(data) != record.bytes or checksum(data) != record.checksum:
        reason = "is missing" if data is None else "is not what its receipt says"
        raise CorruptStoreError(f"{objects.location}/{path} {reason}. {advice}")
    return data


def read_card(objects: Objects) -> dict[str, memoryview]:
    """The files of the card that lies beside a store; none where there is no card.

    A card is no part of its store, so nothing fails for it. Where objects cannot be listed, servers may answer that
    one is forbidden when it is missing.
    """
    found = {}
    for name in CARD_FILES:
        try:
            data = objects.read(name, limit=MAX_DOCUMENT_BYTES)
        except KdpipeError as error:
            logger.info("The card was left out. %s", error)
            continue
        if data is not None:
            found[name] = data
    return found
