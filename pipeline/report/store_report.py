"""All that can be told of a store: what it is, and what its tables and its payload say of the teacher."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...stores import RefusedError, Store, open_store
from ...stores.manifest import Manifest
from .comparison import Comparison, compare
from .payload import PayloadStatistics, payload_statistics
from .sample_tables import SampleStatistics, sample_statistics


@dataclass(frozen=True, kw_only=True)
class StoreClasses:
    """The classes of a store, (C,) each: their names, their samples in its data, their groups."""

    counted: ClassVar[str] = "samples of the class in the store's data"

    names: tuple[str, ...]
    counts: tuple[int, ...]
    groups: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """What a store says of its teacher.

    Attributes:
        path: where it lies.
        manifest: what it is.
        rows: samples that were looked at: all, or the first ones of a store that is not finished.
        classes: names, training counts and groups.
        samples: from the sample tables.
        payload: from logits and ranks.
        comparison: with another store, where one was given.
    """

    path: str
    manifest: Manifest
    rows: int
    classes: StoreClasses
    samples: SampleStatistics
    payload: PayloadStatistics
    comparison: Comparison | None = None

    @property
    def mixed(self) -> bool:
        """Whether every input was mixed with that of another sample: one label is then not the truth."""
        return self.manifest.array("mix_rows") is not None


def report_store(path: Path | str, temperatures: tuple[float, ...], against: Path | str | None = None) -> StoreReport:
    """Look through a store, and compare it with another.

    Args:
        path: the store, also one that is not finished.
        temperatures: at which masses and divergences are told.
        against: the other store; must be finished.

    Raises:
        RefusedError: nothing of the store has been written yet.
        MismatchError: the other store has other classes or other samples.
        CorruptStoreError: something is damaged.
    """
    whole = open_store(path, allow_unfinished=True)
    store = written_part(whole)
    return StoreReport(
        path=str(whole),
        manifest=whole.manifest,
        rows=len(store),
        classes=StoreClasses(
            names=tuple(store.class_names),
            counts=tuple(store.classes["count"].to_pylist()),
            groups=tuple(store.class_groups.tolist()),
        ),
        samples=sample_statistics(store),
        payload=payload_statistics(store, temperatures),
        comparison=None if against is None else compare(store, open_store(against), temperatures),
    )


def written_part(store: Store) -> Store:
    """The store as far as it is written: its first chunks of view 0, up to the first that has no receipt.

    Raises:
        RefusedError: the first chunk is not written yet.
    """
    if store.manifest.state == "complete":
        return store
    grid = store.manifest.grid
    done = 0
    while done < grid.chunks_per_view and store.has_receipt(done):
        done += 1
    if not done:
        raise RefusedError(f"{store} has no finished chunk yet: there is nothing to report.")
    rows = min(done * grid.chunk_rows, grid.num_samples)
    # the rows of whole chunks are a store of their own, as far as reading goes
    return Store(store.path, dataclasses.replace(store.manifest, num_samples=rows, num_views=1))
