"""What the teacher gives to every class over the samples in use: one pass over the store, then kept in a cache.

The cache is a folder of the user's, ``$XDG_CACHE_HOME/kdpipe`` or ``~/.cache/kdpipe``, and not the store's: a store may
be read-only, remote or shared, and what is in its folder is its content, which nothing may add to. An entry is named
after all that it depends on (the store's content, the rows, the temperature), so it is never out of date; it may be
deleted at any time, and one that is damaged is made again.

Shapes: C classes, G groups, M rows in use.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import torch

from ...stores import Store
from ...stores.arrays import GROUP_NAMES
from ...stores.codecs import TopK
from ...stores.files import checksum, write_file
from ..losses import TeacherMass

logger = logging.getLogger(__name__)

# logits looked at together: 64 MB as float32
_BLOCK_LOGITS = 2**24
_BLOCK_ROWS = 2**16


def teacher_masses(store: Store, rows: np.ndarray, temperatures: Iterable[float]) -> dict[float, TeacherMass]:
    """The teacher's masses over the samples in use, at each temperature: of the classes, and of the store's groups.

    Args:
        store: must carry logits.
        rows: (M,) int64, the store rows in use.
        temperatures: of the softmax.

    Returns:
        By temperature: float64 tensors (C,) and (G,), which add up to 1. A store of the best classes only knows the
        groups' masses, exactly, at the temperatures it has, and not the classes': these are NaN.

    Raises:
        MissingArrayError: the store carries no logits.
        UsageError: a store of the best classes only does not have a temperature.
        CorruptStoreError: a chunk of it is damaged.
    """
    groups, codec = store.class_groups, store.manifest.logit_codec
    if isinstance(codec, TopK) and store.manifest.logit_arrays:
        return {temperature: _top_masses(store, codec, rows, temperature) for temperature in temperatures}
    return {
        temperature: TeacherMass(
            classes=torch.from_numpy(classes),
            groups=torch.from_numpy(np.bincount(groups, weights=classes, minlength=len(GROUP_NAMES))),
        )
        for temperature, classes in class_masses(store, rows, temperatures).items()
    }


def class_masses(store: Store, rows: np.ndarray, temperatures: Iterable[float]) -> dict[float, np.ndarray]:
    """The mean of ``softmax(z / T)`` over the rows: (C,) float64 by temperature.

    Those that are not in the cache are computed, in one pass over the logits of view 0. The sums are float64; memory
    does not depend on the number of rows.

    Args, raises: as of :func:`teacher_masses`.
    """
    key = _Key(
        store_id=store.manifest.store_id,
        store_content=store.manifest.receipts,
        rows=checksum(np.ascontiguousarray(rows, "<i8").tobytes()),
        temperature=0.0,
    )
    keys = {float(t): msgspec.structs.replace(key, temperature=float(t)) for t in temperatures}
    kept = {temperature: _load(key, store.manifest.num_classes) for temperature, key in keys.items()}
    masses = {temperature: mass for temperature, mass in kept.items() if mass is not None}
    for temperature, mass in _compute(store, rows, sorted(keys.keys() - masses.keys())).items():
        masses[temperature] = mass
        _save(keys[temperature], mass)
    return masses


def cache_folder() -> Path:
    """Where the entries are kept: ``$XDG_CACHE_HOME/kdpipe/class-masses``, by default under ``~/.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the XDG base directory specification: a relative path is invalid and to be ignored
    return (base if base.is_absolute() else Path.home() / ".cache") / "kdpipe" / "class-masses"


def _compute(store: Store, rows: np.ndarray, temperatures: list[float]) -> dict[float, np.ndarray]:
    if not temperatures:
        return {}
    num_classes = store.manifest.num_classes
    sums = {temperature: torch.zeros(num_classes, dtype=torch.float64) for temperature in temperatures}
    block_rows = max(1, _BLOCK_LOGITS // num_classes)
    for start in range(0, len(rows), block_rows):
        logits = torch.from_numpy(store.read(rows[start : start + block_rows])["logits"]).float()
        for temperature, total in sums.items():
            total += (logits / temperature).softmax(1).sum(0, dtype=torch.float64)
    return {temperature: (total / len(rows)).numpy() for temperature, total in sums.items()}


def _top_masses(store: Store, codec: TopK, rows: np.ndarray, temperature: float) -> TeacherMass:
    """The groups' masses from the logsumexps, a few numbers a row."""
    index, total = codec.temperature_index(temperature), np.zeros(len(GROUP_NAMES))
    columns = slice(index * len(GROUP_NAMES), (index + 1) * len(GROUP_NAMES))
    for start in range(0, len(rows), _BLOCK_ROWS):
        read = store.read(rows[start : start + _BLOCK_ROWS], arrays=("logsumexp", "group_logsumexp"))
        groups, whole = read["group_logsumexp"][:, columns], read["logsumexp"][:, [index]]
        total += np.exp(groups.astype(np.float64) - whole).sum(0)
    return TeacherMass(
        classes=torch.full((store.manifest.num_classes,), torch.nan, dtype=torch.float64),
        groups=torch.from_numpy(total / len(rows)),
    )


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    """All that the masses depend on.

    Attributes:
        store_id: of the store: its teacher, data, input and arrays.
        store_content: the checksum over the store's receipts; None of a store that is not finished, which is not kept.
        rows: the checksum of the rows in use.
        temperature: of the softmax.
    """

    store_id: str
    store_content: str | None
    rows: str
    temperature: float

    @property
    def file_name(self) -> str:
        return f"{checksum(msgspec.json.encode(self)).removeprefix('xxh3-128:')}.json"


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the cache: a key, the masses, and the checksum of the two."""

    key: _Key
    class_mass: list[float]
    checksum: str


def _checksum(key: _Key, class_mass: list[float]) -> str:
    return checksum(msgspec.json.encode([key, class_mass]))


def _load(key: _Key, num_classes: int) -> np.ndarray | None:
    """The masses kept under a key, or None where they are not there or not whole."""
    if key.store_content is None:
        return None
    path = cache_folder() / key.file_name
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=_Entry)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        logger.info("%s cannot be read and is made again: %s", path, error)
        return None
    stated = (entry.key, len(entry.class_mass), entry.checksum)
    if stated != (key, num_classes, _checksum(key, entry.class_mass)):
        logger.info("%s is damaged and is made again.", path)
        return None
    return np.array(entry.class_mass)


def _save(key: _Key, mass: np.ndarray) -> None:
    """Keep the masses; a cache that cannot be written costs the next run its pass, and nothing else."""
    if key.store_content is None:
        return
    class_mass = mass.tolist()
    entry = _Entry(key=key, class_mass=class_mass, checksum=_checksum(key, class_mass))
    try:
        write_file(cache_folder(), key.file_name, msgspec.json.encode(entry))
    except OSError as error:
        logger.info("The teacher's masses are not kept for the next run: %s", error)
