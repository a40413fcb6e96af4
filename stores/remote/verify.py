"""Verifying a store where it lies: every object there, of its size, and (deep) with its checksum.

Values are not compared with each other: an object with the right checksum is what was written, and a store is verified
before it is pushed.
"""

from collections.abc import Callable
from dataclasses import replace
from os import PathLike

from ..checks.report import Check, Collector, Report, TooManyFindingsError
from ..errors import CorruptStoreError, RefusedError
from ..files import FileRecord, checksum
from ..layout import CARD_FILES, MANIFEST, receipt_file
from ..manifest import MAX_DOCUMENT_BYTES, Manifest, Receipt
from ..writer import documents_checksum
from .location import Location
from .objects import Found, Objects, open_objects
from .push import CLAIM
from .reading import read_receipt
from .transfer import in_parallel

Problem = tuple[Check, str]


def verify_remote(
    url: str | PathLike[str], *, deep: bool = False, on_progress: Callable[[int, int], None] = lambda *_: None
) -> Report:
    """Look whether a store is whole where it lies; nothing is kept here.

    Args:
        url: where the store is.
        deep: also read every object and compare its checksum.
        on_progress: called after every object with the number of objects looked at, and of all.

    Raises:
        RefusedError: the store is undamaged, but of a newer format version.
        KdpipeError: the server cannot be reached, or does not let us read.
    """
    location = Location.parse(url)
    objects, found = open_objects(location), Collector()
    manifest = _read_manifest(objects, found)
    if manifest is None:
        return found.into(Report(path=str(location), deep=deep))
    report = Report(
        path=str(location),
        store_id=manifest.store_id,
        state=manifest.state,
        deep=deep,
        chunks=manifest.grid.num_chunks,
    )
    try:
        _Verification(objects, manifest, found, deep=deep, on_progress=on_progress).run()
    except TooManyFindingsError:
        report = replace(report, stopped=True)
    found.note("values were not compared with each other: pull the store, then verify --deep")
    return found.into(report)


def _read_manifest(objects: Objects, found: Collector) -> Manifest | None:
    try:
        data = objects.read(MANIFEST, limit=MAX_DOCUMENT_BYTES)
        if data is None:
            found.add(MANIFEST, "missing", "it is missing: there is no store, or its push is not finished")
            return None
        found.bytes_read += len(data)
        return Manifest.parse(data, MANIFEST)
    except CorruptStoreError as error:
        found.add(MANIFEST, "manifest", str(error))
    except RefusedError:
        raise  # of a newer version, not damaged
    return None


class _Verification:
    """One pass over a store whose manifest can be read."""

    def __init__(
        self,
        objects: Objects,
        manifest: Manifest,
        found: Collector,
        *,
        deep: bool,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._objects, self._manifest, self._found, self._deep = objects, manifest, found, deep
        self._on_progress = on_progress
        # a place on the web cannot be listed
        self._listed: dict[str, Found] | None = objects.found() if objects.location.is_writable else None
        self._documents: dict[int, bytes] = {}
        self._records: list[tuple[int | None, FileRecord]] = [(None, record) for record in manifest.files]
        self._done = 0

    def run(self) -> None:
        """Receipts first: they say what else there must be."""
        manifest, found = self._manifest, self._found
        if manifest.store_id != manifest.identity():
            found.add(MANIFEST, "manifest", "its store id is not the one that its settings give")
        if manifest.state != "complete":
            found.add(MANIFEST, "unfinished", "the store is not finished")
        in_parallel(range(manifest.grid.num_chunks), self._receipt, on_done=self._keep_receipt)
        whole = len(self._documents) == manifest.grid.num_chunks
        if (
            whole
            and documents_checksum(self._documents[chunk] for chunk in sorted(self._documents)) != manifest.receipts
        ):
            found.add(MANIFEST, "fingerprint", "the receipts are not those that the store was finished with")
        in_parallel(self._records, self._check, size=lambda one: one[1].bytes if self._deep else 0, on_done=self._note)
        self._note_strangers()

    def _receipt(self, chunk: int) -> tuple[Receipt, bytes] | str:
        try:
            return read_receipt(self._objects, self._manifest, chunk)
        except CorruptStoreError as error:
            return str(error)

    def _keep_receipt(self, chunk: int, result: tuple[Receipt, bytes] | str) -> None:
        if isinstance(result, str):
            self._found.add(receipt_file(chunk), "receipt", result, chunk=chunk)
            return
        receipt, document = result
        self._found.chunks_checked += 1
        self._found.bytes_read += len(document)
        self._documents[chunk] = document
        self._records += [(chunk, record) for record in receipt.files]

    def _check(self, one: tuple[int | None, FileRecord]) -> Problem | None:
        """What is wrong with an object, if something is."""
        _, record = one
        if self._listed is not None:
            there = self._listed.get(record.path)
            if there is None:
                return "missing", "it is missing"
            if there.bytes != record.bytes:
                return "size", f"it has {there.bytes:,} bytes, its record says {record.bytes:,}"
        if not self._deep:
            return None
        try:
            data = self._objects.read(record.path, limit=record.bytes)
        except CorruptStoreError:  # larger than its record says: it was not read
            return "size", f"it is larger than the {record.bytes:,} bytes of its record"
        if data is None:
            return "missing", "it is missing"
        return None if checksum(data) == record.checksum else ("checksum", "its content is not what was written")

    def _note(self, one: tuple[int | None, FileRecord], problem: Problem | None) -> None:
        chunk, record = one
        self._done += 1
        self._found.files_checked += 1
        self._found.bytes_read += record.bytes if self._deep else 0
        if problem is not None:
            self._found.add(record.path, problem[0], problem[1], chunk=chunk)
        self._on_progress(self._done, len(self._records))

    def _note_strangers(self) -> None:
        known = {record.path for _, record in self._records} | {MANIFEST, CLAIM, *CARD_FILES}
        known |= {receipt_file(chunk) for chunk in range(self._manifest.grid.num_chunks)}
        if self._listed is None:
            self._found.note("places on the web cannot be listed: sizes are compared with --deep only")
        for path in sorted((self._listed or {}).keys() - known):
            self._found.note(f"{path} does not belong to the store")
