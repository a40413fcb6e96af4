"""``kdpipe store import``: logits that somebody else computed become a store, verified and compared with their source.

source -> rows of logits, or of the best classes with their probabilities -> chunks -> verified -> read back

Shapes: N samples, n rows of a chunk, C classes, V views.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from ... import __version__
from ...stores import ArrayInfo, Manifest, StoreWriter, open_store
from ...stores import manifest as manifests
from ...stores.arrays import GEOMETRY_ARRAYS, class_dtype
from ...stores.codecs import Codec, Factorised, Float16, Float32, TopK, parse_codec
from ...stores.confidence import confidence_and_entropy, warn_of_probabilities
from ...stores.derive import derive
from ...stores.errors import BadLogitsError, CorruptStoreError, UsageError
from ...stores.files import file_checksum
from ...stores.groups import assign_groups, group_names
from ...stores.layout import default_chunk_rows
from ...stores.manifest import TeacherInfo
from ...stores.ranking import rank_classes
from ...stores.tables import classes_table, samples_table
from ...stores.writer import timestamp
from ..augment import Augmentation
from ..views import Preprocessing
from .best_classes import TopRows
from .described import Described, as_ids, as_labels, read_list
from .files import Rows, as_float32, member, read_arrays
from .fkd import FkdStore
from .tinyvit import TinyVitStore, is_tinyvit

# how a manifest names the teacher: the second kind saw augmented inputs that cannot be drawn again
IMPORTED, IMPORTED_VIEWS = "imported", "imported-views"
# rows that are looked at for what the whole array is
_PROBED = 256


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What is imported.

    Attributes:
        source: a file with an array of logits, or the folder of a TinyViT or FKD store.
        out: folder of the store.
        classes: the class names in order: a text file, one a line, or an array of the source.
        labels: class numbers or names of the rows: a text file, .npy and the like, or an array of the source.
        ids: sample ids, likewise.
        logits: the array of the source, where it has several; by default ``logits``.
        codec: how logits are stored; by default so that nothing is lost: float16 for float16, else float32.
        preprocess: what the teacher's inputs were made with: ``image,...``.
        size: side in pixels to which FKD's crops are scaled for students.
        groups: rule of the class groups; by default ``thirds``, of the best classes only ``single``.
        rank_depth: keep only so many of the best ranks; by default all.
        chunk_rows: rows of a chunk; by default 4096, fewer for very many classes.
        owner, licence, note: for the record.
    """

    source: Path
    out: Path
    classes: str
    labels: str
    ids: str
    logits: str | None = None
    codec: str | None = None
    preprocess: str = "image"
    size: int = 224
    groups: str | None = None
    rank_depth: int | None = None
    chunk_rows: int | None = None
    owner: str | None = None
    licence: str | None = None
    note: str | None = None


def import_store(config: ImportConfig, on_progress: Callable[[int, int], None] = lambda *_: None) -> Manifest:
    """Write a store from logits that are there; go on where an earlier import was interrupted.

    Args:
        config: what to import.
        on_progress: called after every chunk with the number of chunks that are there, and of all.

    Returns:
        The manifest of the finished store.

    Raises:
        UsageError: a file or an array is not there, or not of a kind that can be read.
        MismatchError: numbers of rows, labels, ids or classes do not go together; another store is there.
        BadLogitsError: logits are not finite, or cannot be stored.
        CorruptStoreError: what was written is not what was read.
        KdpipeError: the source is damaged, or reading it would run code.
    """
    return _import_views(config, on_progress) if config.source.is_dir() else _import_array(config, on_progress)


def _import_array(config: ImportConfig, on_progress: Callable[[int, int], None]) -> Manifest:
    """From a file with all logits of every sample."""
    arrays = read_arrays(config.source)
    logits = _logits(config, arrays)
    described = _described(config, arrays)
    _check_shape(config, logits, described)
    codec, num_classes = _codec(config, logits), len(described.class_names)
    groups, rule = assign_groups(config.groups or "thirds", described.class_counts, described.class_names)
    depth = min(config.rank_depth or num_classes, num_classes)
    origin = TeacherInfo(
        spec=f"{IMPORTED}:{config.source.name}", checksum=file_checksum(config.source), num_parameters=0
    )
    manifest = _manifest(config, described, origin, rule, codec, rank_depth=depth)
    warn_of_probabilities(as_float32(logits[:_PROBED]))
    rows = _DenseRows(logits, codec, groups, depth, described.sample_ids)
    return _write(config, manifest, described, groups, rows, on_progress)


def _import_views(config: ImportConfig, on_progress: Callable[[int, int], None]) -> Manifest:
    """From the folder of a TinyViT or FKD store, with the best classes of several augmented views."""
    if config.logits or config.rank_depth or config.groups not in (None, "single"):
        raise UsageError(
            f"{config.source} keeps the best classes only, in its own files: --logits and --rank-depth make no sense, "
            "and the masses of class groups are not known. Leave these flags and --groups out."
        )
    described = _described(config, {})
    is_fkd = not is_tinyvit(config.source)
    source = (FkdStore if is_fkd else TinyVitStore)(config.source, described.sample_ids)
    codec = parse_codec(config.codec or f"topk:{source.k},temperatures=1")
    if not isinstance(codec, TopK) or codec.temperatures != (1.0,) or codec.k > source.k:
        raise UsageError(
            f"{config.source} has the probabilities of the best {source.k} classes at T = 1, from which '{codec}' does "
            f"not follow. Give topk:K,temperatures=1 with K up to {source.k}, or leave --codec out."
        )
    name = f"{IMPORTED if is_fkd else IMPORTED_VIEWS}:{config.source.name}"
    origin = TeacherInfo(spec=name, checksum=source.checksum, num_parameters=0)
    num_classes = len(described.class_names)
    groups, rule = assign_groups("single", described.class_counts, described.class_names)
    manifest = _manifest(config, described, origin, rule, codec, rank_depth=codec.k, views=source.num_views)
    rows = TopRows(source.read, codec, num_classes, described.sample_ids)
    if isinstance(source, FkdStore):
        manifest = _with_crops(config, manifest)
        rows = TopRows(source.read, codec, num_classes, described.sample_ids, source.geometry)
    return _write(config, manifest, described, groups, rows, on_progress, by_block=is_fkd)


def _with_crops(config: ImportConfig, manifest: Manifest) -> Manifest:
    """The manifest of views whose crops and flips are stored, and replayed as they are."""
    drawn = Augmentation(
        size=config.size, interpolation=Preprocessing.parse(config.preprocess).interpolation, recorded=True
    )
    return manifests.replace(manifest, arrays=(*manifest.arrays, *GEOMETRY_ARRAYS), augmentation=drawn.to_dict())


def _described(config: ImportConfig, arrays: Mapping[str, object]) -> Described:
    names = tuple(str(name) for name in read_list(config.classes, config.source, arrays))
    return Described(
        sample_ids=as_ids(read_list(config.ids, config.source, arrays)),
        labels=as_labels(read_list(config.labels, config.source, arrays), names),
        class_names=names,
    )


class ChunkRows(Protocol):
    """Gives the rows of a chunk as the store has them."""

    def __call__(self, view: int, rows: range) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The arrays, and ``teacher_top1``, ``teacher_confidence`` and ``teacher_entropy``: (n, ...) each."""
        ...


class _DenseRows:
    """Rows of all logits, checked, ranked and encoded."""

    def __init__(self, logits: Rows, codec: Codec, groups: np.ndarray, rank_depth: int, sample_ids: pa.Array) -> None:
        self._logits, self._codec, self._groups = logits, codec, groups
        self._rank_depth, self._sample_ids = rank_depth, sample_ids

    def __call__(self, view: int, rows: range) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:  # noqa: ARG002
        logits = as_float32(self._logits[rows.start : rows.stop])
        self._check(logits, rows.start)
        ranks = rank_classes(logits)
        confidence, entropy = confidence_and_entropy(logits)
        arrays = {**self._codec.encode(logits, self._groups), "ranks": ranks[:, : self._rank_depth]}
        said = {"teacher_top1": ranks[:, 0], "teacher_confidence": confidence, "teacher_entropy": entropy}
        return arrays, said

    def _check(self, logits: np.ndarray, start: int) -> None:
        finite = np.asarray(np.isfinite(logits).all(1))
        bad = ~finite | (logits.max(1) == logits.min(1))
        if not bad.any():
            return
        row = int(np.flatnonzero(bad)[0])
        what = "are all equal" if finite[row] else "are not finite (NaN or infinite)"
        others = f", and those of {bad.sum() - 1} more in its chunk" if bad.sum() > 1 else ""
        raise BadLogitsError(
            f"The logits of '{self._sample_ids[start + row].as_py()}' (row {start + row:,}) {what}{others}. "
            "Leave such rows out."
        )


def _write(
    config: ImportConfig,
    manifest: Manifest,
    described: Described,
    groups: np.ndarray,
    rows_of: ChunkRows,
    on_progress: Callable[[int, int], None],
    *,
    by_block: bool = False,
) -> Manifest:
    """Write what is missing, verify the store, finish it, and compare all of it with the source."""
    grid, group_of = manifest.grid, np.array(group_names(groups))
    classes = classes_table(described.class_names, described.class_counts, group_names(groups))

    def write_chunk(writer: StoreWriter, chunk: int) -> None:
        rows = grid.rows(chunk)
        arrays, said = rows_of(grid.view(chunk), rows)
        labels, ids = (part[rows.start : rows.stop] for part in (described.labels, described.sample_ids))
        samples = samples_table(rows, ids, labels, group_of[labels], **said) if grid.view(chunk) == 0 else None
        writer.write_chunk(chunk, arrays, samples)

    finished = derive(config.out, manifest, classes, write_chunk, by_block=by_block, on_progress=on_progress)
    store = open_store(config.out)
    for chunk in sorted(range(grid.num_chunks), key=grid.block) if by_block else range(grid.num_chunks):
        rows = grid.rows(chunk)
        expected, _ = rows_of(grid.view(chunk), rows)
        found = store.read(np.arange(rows.start, rows.stop), arrays=tuple(expected), view=grid.view(chunk))
        for name, values in expected.items():
            if not np.array_equal(found[name], values):
                raise CorruptStoreError(
                    f"'{name}' of rows {rows.start} to {rows.stop - 1} of {config.out} is not what {config.source} "
                    "says. Was the source changed meanwhile? Import it again into another folder."
                )
    return finished


def _logits(config: ImportConfig, arrays: Mapping[str, object]) -> Rows:
    """The array of logits: the one named, else ``logits``, else the only one."""
    name = config.logits or ("logits" if "logits" in arrays else next(iter(arrays)) if len(arrays) == 1 else None)
    if name is None:
        raise UsageError(f"{config.source} has several arrays: {', '.join(arrays)}. Say which: --logits NAME.")
    found = member(arrays, name, config.source)
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) != 2:
        raise UsageError(f"'{name}' in {config.source} is no array (samples, classes), but {_kind(found)}.")
    if shape[1] < 2 or not _is_float(found[:0]):
        raise UsageError(f"'{name}' in {config.source} holds {_kind(found)}: floating-point logits are needed.")
    return found


def _is_float(rows: object) -> bool:
    """Whether rows hold floating-point numbers."""
    dtype = str(getattr(rows, "dtype", ""))
    return "float" in dtype and "float8" not in dtype


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{getattr(value, 'dtype', 'numbers')} of shape {tuple(shape)}"


def _check_shape(config: ImportConfig, logits: Rows, described: Described) -> None:
    rows, classes = logits.shape
    if classes != len(described.class_names):
        raise UsageError(
            f"The logits in {config.source} are of {classes} classes, and there are {len(described.class_names)} "
            "class names. Give one a class, in the order of the columns."
        )
    if rows != len(described):
        raise UsageError(
            f"{config.source} has {rows:,} rows of logits, and there are {len(described):,} sample ids. Give one a row."
        )


def _codec(config: ImportConfig, logits: Rows) -> Codec:
    if config.codec is None:
        return Float16() if str(logits[:0].dtype).rpartition(".")[2] == "float16" else Float32()  # bfloat16 is wider
    codec = parse_codec(config.codec)
    if isinstance(codec, Factorised):
        raise UsageError("The codec 'factorised' stores features, and the source has logits. Choose another.")
    return codec


def _manifest(
    config: ImportConfig,
    described: Described,
    origin: TeacherInfo,
    rule: str,
    codec: Codec,
    *,
    rank_depth: int,
    views: int = 1,
) -> Manifest:
    num_classes = len(described.class_names)
    ranks = ArrayInfo(name="ranks", dtype=class_dtype(num_classes), width=rank_depth)
    arrays = (*codec.arrays(num_classes), ranks)
    row_bytes = max(array.row_bytes for array in arrays)
    chunk_rows = config.chunk_rows or default_chunk_rows(len(described), row_bytes)
    return Manifest(
        num_samples=len(described),
        num_classes=num_classes,
        num_views=views,
        chunk_rows=min(chunk_rows, len(described)),
        arrays=arrays,
        codec=None if codec in (Float16(), Float32()) else str(codec),
        dataset=described.info(origin.spec),
        teacher=origin,
        preprocessing=Preprocessing.parse(config.preprocess).to_dict(),
        group_rule=rule,
        precision=IMPORTED,
        device=IMPORTED,
        batch_size=1,
        kdpipe_version=__version__,
        created=timestamp(),
        owner=config.owner,
        licence=config.licence,
        note=config.note,
    )
