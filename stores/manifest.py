"""The manifest and the receipts: what a store is, as frozen dataclasses with limits, and their JSON."""

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from .arrays import VIEW_ARRAYS, ArrayInfo, ConstantInfo, class_dtype
from .codecs import Codec, Float16, Float32, LogitCodec, parse_codec
from .errors import CorruptStoreError, RefusedError, UsageError
from .files import Checksum, FileRecord, checksum, create_file, write_file
from .layout import MANIFEST, Grid, receipt_file
from .probe import LibraryProbe

FORMAT_VERSION = "1.0"

# A stranger's store may claim anything: every count and text is bounded before it sizes an allocation.
MAX_DOCUMENT_BYTES = 16_000_000
_MAX_CHUNKS = 2**24
MAX_VIEWS = 1_000_000
Count = Annotated[int, Meta(ge=0, le=2**48)]
Positive = Annotated[int, Meta(ge=1, le=2**48)]
Text = Annotated[str, Meta(max_length=4096)]
Digest = Annotated[str, Meta(max_length=200)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

Buffer = bytes | memoryview
PayloadFormat = Literal["zarr", "parquet", "parquet-lists"]
PAYLOAD_FORMATS: tuple[PayloadFormat, ...] = get_args(PayloadFormat)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The data the teacher saw.

    Attributes:
        spec: how it was named at extraction, for the record; never imported or opened from here.
        sample_ids: fingerprint of the ordered sample ids.
        labels: fingerprint of the ordered labels.
        classes: fingerprint of the ordered class names.
        long_tail: parameters of the long-tail subsampling, if any.
        unreadable: how many samples were left out because they could not be read.
    """

    spec: Text
    sample_ids: Digest
    labels: Digest
    classes: Digest
    long_tail: dict[Text, float | int | None] | None = None
    unreadable: Count = 0


@dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """The teacher: how it was named, the checksum of its weights, its size, and the libraries that ran it."""

    spec: Text
    checksum: Digest
    num_parameters: Count
    libraries: dict[Text, Text] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Fractions of samples whose top class is their label; ``balanced`` is the mean over classes."""

    overall: Fraction
    balanced: Fraction
    head: Fraction | None = None
    medium: Fraction | None = None
    tail: Fraction | None = None


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A store that a store was derived from.

    Attributes:
        store_id: of the parent.
        receipts: the checksum over the parent's receipts: it names the parent's content.
        change: what was done, in words.
        parents: what the parent itself was derived from.
    """

    store_id: Digest
    receipts: Checksum | None
    change: Text
    parents: Annotated[tuple["Parent", ...], Meta(max_length=256)] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store is; see docs/format.md for every field.

    ``store_id`` is derived from what decides the content (data, teacher, input, arrays, order), so the same
    extraction has the same id wherever it is run. ``receipts`` is the checksum over all receipts of a
    finished store: it names the content itself. ``codec`` is None where logits are plain numbers and nothing is
    compressed: the arrays then say all. ``payload_format`` says how the arrays lie in files. ``augmentation`` says how
    views are drawn, ``probe`` proves that libraries draw them as they did; both are None where inputs are as they come.
    ``parents`` are empty for a store that an extraction made.
    """

    format_version: Annotated[str, Meta(pattern=r"^\d{1,4}\.\d{1,4}$")] = FORMAT_VERSION
    store_id: Digest = ""
    state: Literal["writing", "complete"] = "writing"
    num_samples: Positive
    num_classes: Annotated[int, Meta(ge=2, le=65536)]
    num_views: Annotated[int, Meta(ge=1, le=MAX_VIEWS)] = 1
    chunk_rows: Positive
    arrays: Annotated[tuple[ArrayInfo, ...], Meta(min_length=1, max_length=16)]
    codec: Text | None = None
    payload_format: PayloadFormat = "zarr"
    dataset: DatasetInfo
    teacher: TeacherInfo
    preprocessing: dict[Text, Any]
    augmentation: dict[Text, Any] | None = None
    probe: LibraryProbe | None = None
    group_rule: Text
    order: Text = "dataset"
    precision: Text = "fp32"
    device: Text = "cpu"
    batch_size: Positive
    kdpipe_version: Text
    created: Text
    finished: Text | None = None
    extractor: Text | None = None
    owner: Text | None = None
    licence: Text | None = None
    note: Text | None = None
    accuracy: Accuracy | None = None
    parents: Annotated[tuple[Parent, ...], Meta(max_length=256)] = ()
    files: Annotated[tuple[FileRecord, ...], Meta(max_length=64)] = ()
    receipts: Checksum | None = None

    def __post_init__(self) -> None:
        if not self.store_id:
            object.__setattr__(self, "store_id", self.identity())
        self._check_shape()

    @property
    def grid(self) -> Grid:
        """The chunks this store is made of."""
        return Grid(self.num_samples, self.num_views, self.chunk_rows)

    def array(self, name: str) -> ArrayInfo | None:
        """The array of that name, or None."""
        return next((array for array in self.arrays if array.name == name), None)

    @property
    def made_by(self) -> str:
        """What to run again to go on with it, for a message."""
        return "command" if self.parents else "`kdpipe extract`"

    @property
    def array_names(self) -> str:
        """The names of the stored arrays, for a message."""
        return ", ".join(array.name for array in self.arrays)

    @property
    def logit_codec(self) -> Codec:
        """How logits are stored; also of a store that has only ranks."""
        if self.codec is not None:
            return parse_codec(self.codec)
        logits = self.array("logits")
        return Float32() if logits is not None and logits.dtype == "float32" else Float16()

    @property
    def constants(self) -> tuple[ConstantInfo, ...]:
        """The arrays that are stored once, for all rows."""
        return self.logit_codec.constants(self.num_classes) if self.logit_arrays else ()

    def components(self, name: str) -> tuple[ArrayInfo, ...]:
        """The stored arrays that ``name`` is read from: "logits" from those of the codec; none where it cannot be."""
        if (array := self.array(name)) is not None:
            return (array,)
        if name != "logits" or not isinstance(self.logit_codec, LogitCodec):
            return ()
        return self.logit_arrays

    @property
    def logit_arrays(self) -> tuple[ArrayInfo, ...]:
        """The arrays that hold the logits: those of the codec, or none."""
        return tuple(array for array in self.arrays if array.name != "ranks" and array.name not in VIEW_ARRAYS)

    @property
    def view_arrays(self) -> tuple[ArrayInfo, ...]:
        """The arrays that say how the inputs of augmented views were drawn."""
        return tuple(array for array in self.arrays if array.name in VIEW_ARRAYS)

    def _check_shape(self) -> None:
        if -(-self.num_samples // max(self.chunk_rows, 1)) * self.num_views > _MAX_CHUNKS:
            raise UsageError(f"a store has at most {_MAX_CHUNKS} chunks; make chunk_rows larger")
        if len({array.name for array in self.arrays}) < len(self.arrays):
            raise UsageError("an array is listed twice")
        codec = self.logit_codec
        if self.codec is not None and (self.codec != str(codec) or self.codec in (Float16.name, Float32.name)):
            raise UsageError(f"the codec is not written '{self.codec}' but '{codec}', and plain ones not at all")
        ranks, others = self.array("ranks"), self.logit_arrays
        wide_enough = ranks is None or (ranks.dtype in ("uint16", class_dtype(self.num_classes)))
        if ranks is not None and not (wide_enough and ranks.width <= self.num_classes):
            raise UsageError(f"{ranks} cannot hold the ranks of {self.num_classes} classes")
        if strange := [a for a in self.view_arrays if a != VIEW_ARRAYS[a.name] or self.augmentation is None]:
            raise UsageError(f"{strange[0]} cannot say how inputs were augmented")
        if others and others != (expected := codec.arrays(self.num_classes)):
            names = ", ".join(f"{array.name} {array.dtype} {array.width}" for array in expected)
            raise UsageError(f"the codec {codec} for {self.num_classes} classes has the arrays {names}")

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payload chunks, uncompressed."""
        grid = self.grid
        return sum(array.row_bytes for array in self.arrays) * grid.num_chunks * grid.chunk_rows

    def settings(self) -> dict[str, Any]:
        """Everything that decides the stored numbers; two extractions may share a folder only if these agree.

        As JSON gives them back, so that a manifest equals the one read from its file (tuples are lists there).
        """
        settings = {
            "format": self.format_version.partition(".")[0],
            "num_samples": self.num_samples,
            "num_classes": self.num_classes,
            "num_views": self.num_views,
            "chunk_rows": self.chunk_rows,
            "arrays": self.arrays,
            "sample_ids": self.dataset.sample_ids,
            "labels": self.dataset.labels,
            "classes": self.dataset.classes,
            "teacher": self.teacher.checksum,
            "preprocessing": self.preprocessing,
            "group_rule": self.group_rule,
            "order": self.order,
            "precision": self.precision,
        }
        if self.augmentation is not None:  # views can be added to an augmented store, which stays the same store
            settings |= {"num_views": None, "augmentation": self.augmentation}
        if self.codec is not None:  # without one, a store has the id that it had before there were codecs
            settings["codec"] = self.codec
        if self.payload_format != "zarr":  # likewise
            settings["payload_format"] = self.payload_format
        if self.parents:  # what was done to them decides the content
            settings["parents"] = self.parents
        return msgspec.json.decode(msgspec.json.encode(settings))

    def identity(self) -> str:
        """The store id: 16 hex digits of SHA-256 over the settings."""
        return hashlib.sha256(msgspec.json.encode(self.settings(), order="deterministic")).hexdigest()[:16]

    def to_json(self) -> bytes:
        """The manifest as indented JSON; its last field is the checksum of all the others."""
        body = msgspec.to_builtins(self)
        body["checksum"] = _body_checksum(body)
        return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"

    def write(self, root: Path) -> None:
        """Write ``root/manifest.json``, whole or not at all.

        Raises:
            UsageError: it breaks the limits of the format, so that nobody could read it.
        """
        write_file(root, MANIFEST, _readable(self, self.to_json()))

    def create(self, root: Path) -> None:
        """Write it unless one is there: another process may have been first.

        Raises:
            UsageError: as of :meth:`write`.
        """
        create_file(root, MANIFEST, _readable(self, self.to_json()))

    @classmethod
    def read(cls, root: Path) -> "Manifest":
        """Read and validate ``root/manifest.json``.

        Raises:
            CorruptStoreError: it is missing, not JSON, too large, altered, or breaks the schema.
            RefusedError: it was written by a newer major version of the format.
        """
        return cls.parse(_read_file(root / MANIFEST), str(root / MANIFEST))

    @classmethod
    def parse(cls, data: Buffer, place: str) -> "Manifest":
        """Validate the bytes of a manifest.

        Args:
            data: of the file.
            place: how to name the file in an error.

        Raises:
            CorruptStoreError, RefusedError: as of :meth:`read`.
        """
        body = _decode(data, place)
        _check_version(body.get("format_version"), place)
        stated = body.pop("checksum", None)
        if stated != _body_checksum(body):
            raise CorruptStoreError(f"{place} does not match its own checksum: it was altered or cut. Restore it.")
        try:
            return msgspec.convert(body, cls)
        except (msgspec.ValidationError, RecursionError) as error:
            raise CorruptStoreError(f"{place} is not a valid manifest: {error}. Restore it.") from None


@dataclass(frozen=True, kw_only=True)
class InputDigest:
    """The digest of the exact input tensor the teacher was given for one row."""

    row: Count
    digest: Digest


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that a chunk is whole: its rows, every file it wrote, and digests of a few of its inputs."""

    chunk: Count
    view: Count
    start: Count
    stop: Count
    files: Annotated[tuple[FileRecord, ...], Meta(max_length=16)]
    inputs: Annotated[tuple[InputDigest, ...], Meta(max_length=64)] = ()

    def to_json(self) -> bytes:
        """The receipt as JSON; its bytes depend on nothing but the chunk's content."""
        body = msgspec.to_builtins(self)
        body["checksum"] = _body_checksum(body)
        return msgspec.json.encode(body) + b"\n"

    def write(self, root: Path) -> None:
        """Write the receipt: from here on the chunk exists."""
        write_file(root, receipt_file(self.chunk), _readable(self, self.to_json()))

    @classmethod
    def read(cls, root: Path, grid: Grid, chunk: int) -> "Receipt":
        """Read and validate one receipt.

        Raises:
            CorruptStoreError: it is missing, altered, breaks the schema, or is about another chunk.
        """
        path = root / receipt_file(chunk)
        return cls.parse(_read_file(path), str(path), grid, chunk)

    @classmethod
    def parse(cls, data: Buffer, place: str, grid: Grid, chunk: int) -> "Receipt":
        """Validate the bytes of a receipt; ``place`` names the file in an error.

        Raises:
            CorruptStoreError: as of :meth:`read`.
        """
        body = _decode(data, place)
        stated = body.pop("checksum", None)
        if stated != _body_checksum(body):
            raise CorruptStoreError(f"{place} does not match its own checksum: it was altered or cut.")
        try:
            receipt = msgspec.convert(body, cls)
        except msgspec.ValidationError as error:
            raise CorruptStoreError(f"{place} is not a valid receipt: {error}.") from None
        rows = grid.rows(chunk)
        found = (receipt.chunk, receipt.view, receipt.start, receipt.stop)
        if found != (chunk, grid.view(chunk), rows.start, rows.stop):
            raise CorruptStoreError(f"{place} is the receipt of chunk {receipt.chunk}, not of chunk {chunk}.")
        return receipt


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of manifest.json, as published in docs/manifest.schema.json."""
    return msgspec.json.schema(Manifest)


def fingerprint(values: Iterable[str]) -> str:
    """SHA-256 over an ordered list of texts; the length before each makes the boundaries part of it."""
    digest = hashlib.sha256()
    for value in values:
        encoded = value.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return f"sha256:{digest.hexdigest()}"


def differences(one: Manifest, other: Manifest) -> list[str]:
    """The names of the settings in which two manifests differ."""
    left, right = one.settings(), other.settings()
    return [name for name in {**left, **right} if left.get(name) != right.get(name)]


def replace(manifest: Manifest, **changes: Any) -> Manifest:
    """A copy with some fields changed and the store id derived again."""
    return dataclasses.replace(manifest, store_id="", **changes)


def _body_checksum(body: dict[str, Any]) -> str:
    return checksum(msgspec.json.encode(body, order="deterministic"))


def _readable(model: Manifest | Receipt, document: bytes) -> bytes:
    kind = type(model).__name__.lower()
    try:
        msgspec.json.decode(document, type=type(model))
    except msgspec.ValidationError as error:
        raise UsageError(f"The {kind} cannot be written, its readers would refuse it: {error}.") from None
    if len(document) > MAX_DOCUMENT_BYTES:
        raise UsageError(f"The {kind} cannot be written: it is larger than {MAX_DOCUMENT_BYTES} bytes.")
    return document


def _read_file(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise CorruptStoreError(f"{path} is not a file. Restore it.")
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise CorruptStoreError(f"{path} is larger than {MAX_DOCUMENT_BYTES} bytes: refused unread.")
        return path.read_bytes()
    except OSError as error:
        raise CorruptStoreError(f"{path} cannot be read ({error.strerror}). Is this a kdpipe store?") from None


def _decode(data: Buffer, place: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptStoreError(f"{place} is not valid JSON: {error}. Restore it.") from None


def _check_version(version: object, place: str) -> None:
    major = str(version).partition(".")[0]
    if not major.isdecimal():
        raise CorruptStoreError(f"{place} states no format version. Is this a kdpipe store?")
    if int(major[:9]) > int(FORMAT_VERSION.partition(".")[0]):
        raise RefusedError(
            f"{place} has format version {str(version)[:20]}; this kdpipe reads up to {FORMAT_VERSION}. "
            "Upgrade: pip install --upgrade kdpipe."
        )
