"""Writing a store: skeleton, chunks with their receipts, and the finished manifest, in this order.

Any kill leaves whole files: a chunk exists if and only if its receipt does, and a store is complete if and
only if its manifest says so. The same writer, opened again, goes on with the chunks that are missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from . import manifest as manifests
from .claims import ChunkClaims, living_claims
from .differences import told_differences
from .errors import CorruptStoreError, MismatchError, RefusedError, UsageError
from .files import checksum, is_temporary, record_of, remove_temporaries, write_file
from .layout import CLASSES, MANIFEST, RECEIPTS, receipt_file, samples_file
from .manifest import Accuracy, InputDigest, Manifest, Receipt
from .payload.layout import payload_layout, payload_store_id, remove_payload
from .tables import to_parquet

# the settings that are no values but stand for some
_FINGERPRINTS = {
    "teacher": "the checksum of the teacher's weights",
    "sample_ids": "the fingerprint of the sample ids",
    "labels": "the fingerprint of the labels",
    "classes": "the fingerprint of the class names",
}


class StoreWriter:
    """Writes one store; made by :meth:`open`."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(
        cls,
        root: Path,
        manifest: Manifest,
        classes: pa.Table,
        constants: Mapping[str, np.ndarray] | None = None,
        *,
        tidy: bool = True,
    ) -> "StoreWriter":
        """Create the store, or go on with one that was begun with the same settings.

        A store of augmented views that has fewer than the manifest says is given more; what it has is not touched.

        Args:
            root: the folder of the store.
            manifest: what the store is to be; a store already there keeps its own times and batch size, and its views.
            classes: classes.parquet.
            constants: the arrays that its codec stores once.
            tidy: remove what killed writers left, for which every folder of the store is listed. One of many processes
                leaves that to :meth:`finish`.

        Raises:
            UsageError: such an array is not given, or has another shape.
            MismatchError: a store with other settings is there.
            RefusedError: something that is not a store is there.
        """
        if not (root / MANIFEST).exists():
            if _is_foreign(root, manifest) and not (root / MANIFEST).exists():  # nor has another begun it just now
                raise RefusedError(f"{root} exists and is not a kdpipe store. Choose another --out.")
            manifest.create(root)  # of processes that begin at once, the first decides on times and batch size
        agreed = _agreed(root, Manifest.read(root), manifest)
        if agreed is manifest:  # begun with other settings, and still empty: their arrays must not stay
            remove_payload(root)
        manifest = agreed
        writer = cls(root, manifest)
        if tidy:
            remove_temporaries(root)
        ChunkClaims(root).release_all()  # holds none yet: this removes those of dead processes
        if manifest.state == "writing":
            writer._write_skeleton(classes, constants or {})
        writer._check_skeleton()
        return writer

    @property
    def complete(self) -> bool:
        """Whether the store is finished; nothing more can be written then."""
        return self.manifest.state == "complete"

    def missing_chunks(self) -> list[int]:
        """The chunks that have no valid receipt, or a file of another size than their receipt says."""
        return [chunk for chunk in range(self.manifest.grid.num_chunks) if not self.is_whole(chunk)]

    def is_whole(self, chunk: int) -> bool:
        """Whether a chunk has a valid receipt, and files of the sizes that it says."""
        if not (self.root / receipt_file(chunk)).exists():
            return False
        try:
            for record in Receipt.read(self.root, self.manifest.grid, chunk).files:
                record.check_size(self.root)
        except CorruptStoreError:
            return False
        return True

    def write_chunk(
        self,
        chunk: int,
        arrays: Mapping[str, np.ndarray],
        samples: pa.Table | None,
        inputs: Sequence[InputDigest] = (),
    ) -> Receipt:
        """Write the files of one chunk, then its receipt.

        Args:
            chunk: which chunk of the grid.
            arrays: (rows, width) values for every array of the manifest.
            samples: the samples table of these rows, for view 0.
            inputs: digests of the teacher's input tensors, for a few of the rows.

        Raises:
            UsageError: no such chunk, or values or samples of another shape than it has.
        """
        self._check_chunk(chunk, arrays, samples)
        grid = self.manifest.grid
        view, block, rows = grid.view(chunk), grid.block(chunk), grid.rows(chunk)
        documents = payload_layout(self.manifest).chunk_documents(chunk, arrays)
        records = [write_file(self.root, name, data) for name, data in documents]
        if samples is not None:
            records.append(write_file(self.root, samples_file(block), to_parquet(samples)))
        receipt = Receipt(
            chunk=chunk,
            view=view,
            start=rows.start,
            stop=rows.stop,
            files=tuple(records),
            inputs=tuple(inputs),
        )
        receipt.write(self.root)
        return receipt

    def finish(self, accuracy: Accuracy | None = None) -> Manifest:
        """Mark the store complete: the manifest is written last, with the checksum over all receipts.

        What killed writers left is removed first.
        """
        if missing := self.missing_chunks():
            raise RefusedError(
                f"{self.root} lacks {len(missing)} of {self.manifest.grid.num_chunks} chunks. Run extract again."
            )
        self._check_skeleton()
        remove_temporaries(self.root)
        finished = manifests.replace(
            self.manifest,
            state="complete",
            finished=timestamp(),
            accuracy=accuracy,
            receipts=receipts_checksum(self.root, self.manifest),
        )
        finished.write(self.root)
        self.manifest = finished
        return finished

    def _check_skeleton(self) -> None:
        """Refuse to call a store finished that has lost what belongs to no chunk: its folder may have been moved."""
        for record in self.manifest.files:
            try:
                record.check_size(self.root)
            except CorruptStoreError as error:
                raise CorruptStoreError(
                    f"{error} The store is not whole: run kdpipe store repair {self.root}, then extract again."
                ) from None

    def _write_skeleton(self, classes: pa.Table, constants: Mapping[str, np.ndarray]) -> None:
        """Manifest, class table, the payload's metadata and constants, where they are not there as they should be."""
        layout = payload_layout(self.manifest)
        documents = {CLASSES: to_parquet(classes), **layout.documents(), **layout.constant_documents(constants)}
        records = tuple(record_of(name, data) for name, data in documents.items())
        begun, found = manifests.replace(self.manifest, files=records), Manifest.read(self.root)
        end = {name: getattr(found, name) for name in ("state", "finished", "accuracy", "receipts")}
        if found == manifests.replace(begun, **end):
            begun = found  # finished, where another process has just done that
        else:
            begun.write(self.root)
        for record in records:
            if not record.is_met(self.root):
                write_file(self.root, record.path, documents[record.path])
        self.manifest = begun

    def _check_chunk(self, chunk: int, arrays: Mapping[str, np.ndarray], samples: pa.Table | None) -> None:
        grid = self.manifest.grid
        if not 0 <= chunk < grid.num_chunks:
            raise UsageError(f"Chunk {chunk} is not in {self.root}: it has {grid.num_chunks}, from 0.")
        rows = len(grid.rows(chunk))
        for array in self.manifest.arrays:
            shape = arrays[array.name].shape if array.name in arrays else None
            if shape != (rows, array.width):
                raise UsageError(f"Chunk {chunk} needs '{array.name}' of shape {(rows, array.width)}, not {shape}.")
        if (samples is None) != (grid.view(chunk) > 0) or (samples is not None and len(samples) != rows):
            raise UsageError(f"Chunk {chunk} needs a samples table of {rows} rows if of view 0, else none.")


def receipts_checksum(root: Path, manifest: Manifest) -> str:
    """The checksum over all receipts, in chunk order: it names the content of the store."""
    return documents_checksum((root / receipt_file(chunk)).read_bytes() for chunk in range(manifest.grid.num_chunks))


def documents_checksum(receipts: Iterable[bytes]) -> str:
    """The same, of the bytes of the receipts."""
    return checksum("\n".join(map(checksum, receipts)).encode())


def timestamp() -> str:
    """Now, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _agreed(root: Path, found: Manifest, wanted: Manifest) -> Manifest:
    """The manifest to go on with: the one that is there, unless it is of a store without any chunk.

    Raises:
        MismatchError: the store there was made, or is being made, with other settings.
    """
    if not manifests.differences(found, wanted):
        return _with_views(root, found, wanted)
    if found.state == "complete" or any((root / RECEIPTS).glob("*.json")) or living_claims(root):
        raise MismatchError(
            f"{root} is a store made with other settings: "
            f"{told_differences(found.settings(), wanted.settings(), _FINGERPRINTS)}. "
            "Choose another --out, or give the settings it was begun with."
        )
    return wanted


def _with_views(root: Path, found: Manifest, wanted: Manifest) -> Manifest:
    """The manifest found, with as many views as are wanted.

    Raises:
        MismatchError: views have to be made, and the libraries draw others now than when the store was begun.
        RefusedError: views have to be added, and another process is writing the store.
    """
    more = wanted.num_views > found.num_views
    if found.state == "complete" and not more:
        return found
    if found.probe is not None and wanted.probe is not None:
        found.probe.check(wanted.probe, str(root))
    if not more:
        return found
    if claims := living_claims(root):
        raise RefusedError(f"{root} is being written by {claims[0]}. Wait for it, then add views.")
    unfinished = {"state": "writing", "finished": None, "accuracy": None, "receipts": None}
    return manifests.replace(found, num_views=wanted.num_views, **unfinished)


def _is_foreign(root: Path, wanted: Manifest) -> bool:
    """Whether a folder without a manifest holds something else than the store that is wanted.

    A store that has lost its manifest is known by the id in its payload's metadata.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        return True
    if all(map(is_temporary, root.iterdir())):
        return False
    return payload_store_id(root) != wanted.store_id
