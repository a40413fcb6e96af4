"""The stores under a place, from their manifests alone: what a team has, without reading any payload."""

from dataclasses import dataclass
from os import PathLike

from ..errors import CorruptStoreError, KdpipeError, RefusedError, UsageError
from ..layout import MANIFEST
from ..manifest import MAX_DOCUMENT_BYTES, Manifest
from .location import Location
from .objects import open_objects
from .pull import MARK
from .push import CLAIM
from .transfer import in_parallel

# a prefix full of other things is not searched to its end
_MAX_DEPTH = 6
_MAX_FOLDERS = 20_000


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One store of a catalog; what is not known is None.

    Attributes:
        name: where it lies, relative to the place that was listed.
        url: where it lies.
        state: "complete" or "writing" by its manifest; without one "pushing" or "pulling"; "damaged", "newer" or
            "unreadable".
        problem: what is wrong with its manifest, if anything is.
        fits: whether it fits a data set, where that was asked: "exactly" or "perhaps".
        store_id: of the store.
        receipts: the checksum that names its content.
        teacher: spec.
        data: spec of the data set.
        samples, classes, views: counts.
        arrays: as "logits float16".
        codec: of the logits.
        payload_bytes: size of the arrays, uncompressed.
        licence, owner, note: for the record.
        accuracy: of the teacher, over all samples.
        created: when its extraction was begun.
        parents: the ids of the stores that it was derived from.
        sample_ids, labels, class_names: the fingerprints of its data.
        order: of its rows.
    """

    name: str
    url: str
    state: str
    problem: str | None = None
    fits: str | None = None
    store_id: str | None = None
    receipts: str | None = None
    teacher: str | None = None
    data: str | None = None
    samples: int | None = None
    classes: int | None = None
    views: int | None = None
    arrays: tuple[str, ...] = ()
    codec: str | None = None
    payload_bytes: int | None = None
    licence: str | None = None
    owner: str | None = None
    note: str | None = None
    accuracy: float | None = None
    created: str | None = None
    parents: tuple[str, ...] = ()
    sample_ids: str | None = None
    labels: str | None = None
    class_names: str | None = None
    order: str | None = None


def catalog(url: str | PathLike[str]) -> list[Entry]:
    """All stores at or below a place, by name; those without a sound manifest too.

    Raises:
        UsageError: the place is on the web, which cannot be listed, and is no store itself; or there is no such folder.
        KdpipeError: the server cannot be reached, or does not let us read.
    """
    top = Location.parse(url)
    if top.is_local and not top.folder.is_dir():
        raise UsageError(f"{top} is not a folder. Give a folder or an address such as s3://BUCKET/PATH.")
    if not top.is_writable:
        entry = _entry(top, ".")
        if entry is None:
            raise UsageError(f"{top} is no store, and the web cannot be listed. Give the address of one store.")
        return [entry]
    found: list[Entry] = []
    level, looked_at = [(top, ".")], 0
    for _ in range(_MAX_DEPTH + 1):
        looked_at += len(level)
        if looked_at > _MAX_FOLDERS:
            raise KdpipeError(f"{top} has more than {_MAX_FOLDERS:,} folders. Give an address nearer to the stores.")
        answers: list[Entry | list[tuple[Location, str]]] = []
        in_parallel(level, _look_if_allowed, on_done=lambda _, answer, answers=answers: answers.append(answer))
        found += [answer for answer in answers if isinstance(answer, Entry)]
        level = [folder for answer in answers if not isinstance(answer, Entry) for folder in answer]
    return sorted(found, key=lambda entry: entry.name)


def _look_if_allowed(folder: tuple[Location, str]) -> Entry | list[tuple[Location, str]]:
    """What is in a folder; one that may not be read is listed as such."""
    try:
        return _look(folder)
    except PermissionError:
        return Entry(name=folder[1], url=str(folder[0]), state="unreadable", problem="you may not read this folder")


def _look(folder: tuple[Location, str]) -> Entry | list[tuple[Location, str]]:
    """The store in a folder, or else the folders in it."""
    place, name = folder
    folders, files = open_objects(place).children()
    if MANIFEST in files and (entry := _entry(place, name)) is not None:
        return entry
    for mark, state in ((CLAIM, "pushing"), (MARK, "pulling")):
        if mark in files:
            return Entry(name=name, url=str(place), state=state, problem="it is not finished, or was given up")
    return [(place.child(child), child if name == "." else f"{name}/{child}") for child in folders]


def _entry(place: Location, name: str) -> Entry | None:
    """The store at a place, or None if no manifest is there."""
    url = str(place)
    try:
        data = open_objects(place).read(MANIFEST, limit=MAX_DOCUMENT_BYTES)
        if data is None:
            return None
        manifest = Manifest.parse(data, f"{url}/{MANIFEST}")
    except CorruptStoreError as error:
        return Entry(name=name, url=url, state="damaged", problem=str(error))
    except RefusedError as error:
        return Entry(name=name, url=url, state="newer", problem=str(error))
    accuracy, dataset = manifest.accuracy, manifest.dataset
    return Entry(
        name=name,
        url=url,
        state=manifest.state,
        store_id=manifest.store_id,
        receipts=manifest.receipts,
        teacher=manifest.teacher.spec,
        data=dataset.spec,
        samples=manifest.num_samples,
        classes=manifest.num_classes,
        views=manifest.num_views,
        arrays=tuple(f"{array.name} {array.dtype}" for array in manifest.arrays),
        codec=str(manifest.logit_codec) if manifest.logit_arrays else None,
        payload_bytes=manifest.payload_bytes,
        licence=manifest.licence,
        owner=manifest.owner,
        note=manifest.note,
        accuracy=None if accuracy is None else accuracy.overall,
        created=manifest.created,
        parents=tuple(parent.store_id for parent in manifest.parents),
        sample_ids=dataset.sample_ids,
        labels=dataset.labels,
        class_names=dataset.classes,
        order=manifest.order,
    )
