"""Verifying a store: whether every file is there and what was written, and (deep) whether the values can be right.

Damage never raises: each thing that is wrong becomes a finding that names its file. One chunk is looked at at a time;
only sample ids and labels are kept for all rows, because their fingerprints are over all of them.
"""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import CorruptStoreError
from ..files import FileRecord, is_temporary
from ..layout import CARD_FILES, CLASSES, LOCKS, MANIFEST, QUARANTINE, RECEIPTS, receipt_file, samples_file
from ..manifest import Manifest, fingerprint
from ..payload.layout import payload_layout, payload_store_id, standing_files
from ..remote.location import is_url
from ..tables import CLASSES_SCHEMA, SAMPLES_SCHEMA
from ..writer import receipts_checksum
from .content import class_problems, ids_that_repeat, labels_fingerprint, sample_faults
from .files import FileChecks, read_manifest
from .payload import payload_faults
from .report import Collector, Report, TooManyFindingsError

_NUMBERS = re.compile(r"\d+")


def verify(
    path: str | os.PathLike[str], *, deep: bool = False, on_progress: Callable[[int, int], None] = lambda *_: None
) -> Report:
    """Look whether a store is whole.

    Args:
        path: the folder of the store, or its address, see :func:`.remote.verify.verify_remote`.
        deep: also read every file: checksums, and whether values agree with each other.
        on_progress: called after every chunk (of a remote store, object) with the number looked at, and of all.

    Raises:
        CorruptStoreError: there is no folder of that name, or it has nothing of a store.
        RefusedError: the store is undamaged, but of a newer format version.
        KdpipeError: the server of an address cannot be reached, or does not let us read.
    """
    if is_url(path):
        from ..remote.verify import verify_remote  # only addresses need it

        return verify_remote(path, deep=deep, on_progress=on_progress)
    root = Path(path)
    if not root.is_dir():
        raise CorruptStoreError(f"{root} is not a folder. Is this a kdpipe store?")
    found = Collector()
    manifest = read_manifest(root, found)
    if manifest is None:
        store_id = payload_store_id(root)
        if store_id is None and not any(os.path.lexists(root / name) for name in (MANIFEST, RECEIPTS)):
            raise CorruptStoreError(f"{root} has neither {MANIFEST} nor {RECEIPTS}. Is this a kdpipe store?")
        return found.into(Report(path=str(root), store_id=store_id, deep=deep))
    report = Report(
        path=str(root), store_id=manifest.store_id, state=manifest.state, deep=deep, chunks=manifest.grid.num_chunks
    )
    try:
        _Verification(root, manifest, found, deep=deep).run(on_progress)
    except TooManyFindingsError:
        report = replace(report, stopped=True)
    return found.into(report)


class _Verification:
    """One pass over a store whose manifest can be read."""

    def __init__(self, root: Path, manifest: Manifest, found: Collector, *, deep: bool) -> None:
        self._root, self._manifest, self._found, self._deep = root, manifest, found, deep
        self._files = FileChecks(root, manifest, found, deep=deep)
        self._layout = payload_layout(manifest)
        self._standing = set(standing_files(manifest))
        self._documents = self._layout.documents()
        self._constants = {self._layout.constant_file(constant): constant for constant in manifest.constants}
        self._constant_values: dict[str, np.ndarray] = {}  # those that are whole, if deep
        self._classes: pa.Table | None = None
        # ids and labels of all rows; None where a table cannot be counted in, as fingerprints are over all of them
        self._samples: list[pa.Table] | None = [] if deep else None

    def run(self, on_progress: Callable[[int, int], None]) -> None:
        self._check_manifest()
        self._check_skeleton()
        num_chunks = self._manifest.grid.num_chunks
        for chunk in range(num_chunks):
            self._check_chunk(chunk)
            on_progress(chunk + 1, num_chunks)
        self._check_state()
        if self._samples is not None and not self._found.blames("content"):
            self._check_samples_together(pa.concat_tables(self._samples))
        self._note_strangers()

    # --- what belongs to no chunk

    def _check_manifest(self) -> None:
        manifest = self._manifest
        if manifest.store_id != manifest.identity():
            self._found.add(MANIFEST, "manifest", "its store id is not the one that its settings give")
        if {record.path for record in manifest.files} != self._standing:
            self._found.add(MANIFEST, "manifest", "it does not list the files that a store has beside its chunks")
        if (manifest.state == "complete") != (manifest.receipts is not None):
            self._found.add(MANIFEST, "manifest", "its state and its checksum over the receipts contradict each other")

    def _check_skeleton(self) -> None:
        for record in self._manifest.files:
            if not self._files.is_whole(record, None):
                continue
            if record.path == CLASSES:
                self._check_classes()
            elif record.path in self._documents:
                self._files.document(record.path, self._documents[record.path])
            elif record.path in self._constants:
                self._check_constant(record)

    def _check_classes(self) -> None:
        classes = self._files.table(
            CLASSES, CLASSES_SCHEMA, self._manifest.num_classes, None, None if self._deep else []
        )
        if classes is None or not self._deep:
            return
        problems = class_problems(classes, self._manifest)
        for problem in problems:
            self._found.add(CLASSES, "content", problem)
        self._classes = None if problems else classes

    def _check_constant(self, record: FileRecord) -> None:
        constant = self._constants[record.path]
        if (size := self._layout.constant_bytes(constant)) not in (None, record.bytes):
            self._found.add(record.path, "schema", f"it must have {size:,} bytes")
        elif self._deep:
            try:
                values = self._layout.read_constant(self._root, constant)
            except CorruptStoreError as error:
                self._found.add(record.path, "schema", f"it cannot be read ({error})")
                return
            if np.isfinite(values).all():
                self._constant_values[constant.name] = values
            else:
                self._found.add(record.path, "content", "it holds numbers that are not finite")

    def _check_state(self) -> None:
        """Whether the store is finished, and with these receipts."""
        manifest, found = self._manifest, self._found
        if manifest.state == "writing":
            missing = f"{found.chunks_missing} of {manifest.grid.num_chunks} chunks are missing"
            found.add(MANIFEST, "unfinished", f"not finished, {missing}: run the same {manifest.made_by} again")
            return
        if any(finding.chunk is not None and finding.severity == "error" for finding in found.findings):
            return  # that chunk explains any difference
        if manifest.receipts is not None and _receipts_checksum(self._root, manifest) != manifest.receipts:
            text = "the receipts are not those that the store was finished with: chunks were replaced, whole, by others"
            found.add(MANIFEST, "fingerprint", text)

    def _note_strangers(self) -> None:
        for folder, folders, names in os.walk(self._root):
            here = Path(folder).relative_to(self._root)
            if folder == str(self._root):
                folders[:] = [name for name in folders if name not in (LOCKS, QUARANTINE)]
            for name in sorted(names):
                if not self._belongs((here / name).as_posix()) and not is_temporary(here / name):
                    self._found.note(f"{(here / name).as_posix()} does not belong to the store")

    def _belongs(self, relative: str) -> bool:
        """Whether a store of this shape has a file of that name, or may have it beside it."""
        if relative in (MANIFEST, *CARD_FILES) or relative in self._standing:
            return True
        if self._layout.belongs(relative):
            return True
        grid, numbers = self._manifest.grid, [int(number) for number in _NUMBERS.findall(relative)]
        if len(numbers) != 1:
            return False
        is_receipt = numbers[0] < grid.num_chunks and relative == receipt_file(numbers[0])
        return is_receipt or (numbers[0] < grid.chunks_per_view and relative == samples_file(numbers[0]))

    # --- chunks

    def _check_chunk(self, chunk: int) -> None:
        grid = self._manifest.grid
        receipt = self._files.receipt(chunk)
        if receipt is None:
            self._samples = None
            return
        self._found.chunks_checked += 1
        whole = {record.path for record in receipt.files if self._files.is_whole(record, chunk)}
        samples = None
        if grid.view(chunk) == 0:
            path, columns = samples_file(grid.block(chunk)), None if self._deep else []
            if path in whole:
                samples = self._files.table(path, SAMPLES_SCHEMA, len(grid.rows(chunk)), chunk, columns)
            if samples is None:
                self._samples = None
        if self._deep:
            self._check_content(chunk, whole, samples)

    def _check_content(self, chunk: int, whole: set[str], samples: pa.Table | None) -> None:
        """Compare the values of the files that are what was written."""
        manifest, grid = self._manifest, self._manifest.grid
        view, block, rows = grid.view(chunk), grid.block(chunk), grid.rows(chunk)
        paths = {array.name: self._layout.array_file(array.name, view, block) for array in manifest.arrays}
        paths["samples"] = samples_file(block)
        faults, top1 = [], None
        if samples is not None:
            groups = None if self._classes is None else self._classes["group"].to_pylist()
            faults += sample_faults(samples, rows, manifest.num_classes, groups)
            top1 = None if samples["teacher_top1"].null_count else samples["teacher_top1"].to_numpy()
            if self._samples is not None:
                self._samples.append(samples.select(["sample_id", "label"]))
        names = [name for name in paths if name != "samples" and paths[name] in whole]
        try:
            faults += payload_faults(self._root, manifest, chunk, names, top1, self._constant_values)
        except (OSError, CorruptStoreError) as error:
            self._found.add(receipt_file(chunk), "content", f"its files cannot be read ({error})", chunk=chunk)
        for fault in faults:
            path = paths[fault.where]
            self._found.add(path, "content", str(fault), chunk=chunk, severity=fault.severity)
        self._found.rows_checked += len(rows)

    def _check_samples_together(self, samples: pa.Table) -> None:
        """What only all rows together can say; every table has been found right by itself."""
        found, dataset, chunk_rows = self._found, self._manifest.dataset, self._manifest.chunk_rows
        for sample_id, rows in ids_that_repeat(samples["sample_id"]).items():
            for block in np.unique(rows // chunk_rows).tolist():
                problem = f"the sample id '{sample_id}' is in several rows: {', '.join(map(str, rows[:5]))}"
                found.add(samples_file(block), "content", problem, chunk=block)
        labels = samples["label"].to_numpy()
        advice = "no chunk can be blamed: restore a copy, or extract into a new folder"
        if not found.blames("content") and fingerprint(samples["sample_id"].to_pylist()) != dataset.sample_ids:
            found.add(MANIFEST, "fingerprint", f"the sample ids are not those whose fingerprint it has; {advice}")
        if labels_fingerprint(labels) != dataset.labels:
            found.add(MANIFEST, "fingerprint", f"the labels are not those whose fingerprint it has; {advice}")
        if self._classes is not None:
            counts = np.bincount(labels, minlength=self._manifest.num_classes)
            if not np.array_equal(counts, self._classes["count"].to_numpy()):
                problem = "its counts are not those of the labels that the store holds"
                found.add(CLASSES, "content", problem, severity="warning")


def _receipts_checksum(root: Path, manifest: Manifest) -> str | None:
    try:
        return receipts_checksum(root, manifest)
    except OSError:
        return None
