"""Whether the teachers of two stores saw the same inputs: by their settings, and by the digests that both recorded."""

from dataclasses import dataclass

import numpy as np

from ...stores import Store

# their receipts are read, spread evenly over view 0: as good as all of them, at a cost that does not grow
_MAX_CHUNKS = 64
_SETTINGS = ("preprocessing", "augmentation", "precision")


@dataclass(frozen=True, kw_only=True)
class SharedInputs:
    """What two stores know of the inputs of the samples in both.

    Attributes:
        checked: samples of which both recorded a digest of the exact input.
        differing: of these, how many had another input in the other store.
        settings: which of preprocessing, augmentation and precision differ; also "data", where only its name can tell.
    """

    checked: int = 0
    differing: int = 0
    settings: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing is known to differ."""
        return not (self.differing or self.settings)


def compare_inputs(store: Store, other: Store, partner: np.ndarray | None) -> SharedInputs:
    """Compare what two stores say of their inputs.

    Args:
        store: one.
        other: the other.
        partner: (rows,) the other's row of each, -1 where it has none; None where row i is row i.
    """
    one, two = _digests(store), _digests(other)
    there = {row: row if partner is None else int(partner[row]) for row in one}
    known = [row for row in one if there[row] in two]
    settings = [name for name in _SETTINGS if getattr(store.manifest, name) != getattr(other.manifest, name)]
    if not known and store.manifest.dataset.spec != other.manifest.dataset.spec:
        settings.append("data")
    return SharedInputs(
        checked=len(known),
        differing=sum(one[row] != two[there[row]] for row in known),
        settings=tuple(settings),
    )


def _digests(store: Store) -> dict[int, str]:
    """The digests of some inputs of view 0, by row."""
    last = store.manifest.grid.chunks_per_view - 1
    chunks = np.unique(np.linspace(0, last, min(last + 1, _MAX_CHUNKS)).round().astype(int)).tolist()
    return {kept.row: kept.digest for chunk in chunks for kept in store.receipt(chunk).inputs}
