"""Two stores of the same classes and samples: what their teachers, or their codecs, say differently; one pass.

Shapes: n rows, C classes, G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ...stores import MismatchError, Store
from ...stores.arrays import GROUP_NAMES
from ...stores.codecs import TopK
from ...stores.codecs.fidelity import spearman
from ...stores.join import match_rows
from .divergence import (
    NUM_GROUPS,
    cross_part,
    decompose,
    knows_masses,
    log_group_masses,
    log_softmax,
    stored_log_group_masses,
)
from .payload import best_classes, label_blocks, mass_arrays, order_source
from .shared_inputs import SharedInputs, compare_inputs

_BEST = 5


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """``KL(store || other)`` at one temperature, means over the rows, in nats; ``kl = cross + sum(within)``.

    Attributes:
        temperature: T.
        cross: the part across groups.
        within: the part within each group, by group name; None where a store keeps only its best classes.
        kl: the whole; None where ``within`` is.
        group_mass_error: mean over rows of the largest difference of a group's mass.
        by_label: by the label's group: the mean of the part across groups, and of those within (None as above).
    """

    temperature: float
    cross: float
    within: dict[str, float] | None
    kl: float | None
    group_mass_error: float
    by_label: dict[str, tuple[float, float | None]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A store against another one.

    Attributes:
        other: where the other lies.
        other_id: its store id.
        other_teacher: its teacher's spec.
        codecs: of the two.
        same_teacher: whether both ran the same weights.
        rows: samples in both.
        divergences: by temperature; those that can be told.
        same_best: fraction of rows with the same best class, by the label's group and "all".
        overlap: mean share of the best five (or fewer, where there are few classes) that both name.
        rank_correlation: mean Spearman correlation of the two orders; None where one is not stored whole.
        ties: fraction of neighbours in the order that are equal, in each store's logits; None where one has not all.
        largest_difference: between two logits of the same row and class; None as above.
        missing: what cannot be told, and why.
        inputs: whether both teachers saw the same.
    """

    other: str
    other_id: str
    other_teacher: str
    codecs: tuple[str, str]
    same_teacher: bool
    rows: int
    divergences: tuple[Divergence, ...]
    same_best: dict[str, float]
    overlap: float
    rank_correlation: float | None
    ties: tuple[float, float] | None
    largest_difference: float | None
    missing: tuple[str, ...]
    inputs: SharedInputs = field(default_factory=SharedInputs)


def compare(store: Store, other: Store, temperatures: tuple[float, ...]) -> Comparison:
    """Compare two stores, sample by sample, joined by sample id.

    Raises:
        MismatchError: other classes, no common sample, or nothing that both store.
    """
    if store.manifest.dataset.classes != other.manifest.dataset.classes:
        raise MismatchError(f"The classes of {other} are not those of {store}, in that order. They cannot be compared.")
    sums = _Sums(store=store, other=other, temperatures=_told(store, other, temperatures))
    partner = _partner(store, other)
    for rows, other_rows, labels in _joined(store, partner):
        sums.add(rows, other_rows, labels)
    return sums.result(tuple(_missing(store, other, temperatures)), compare_inputs(store, other, partner))


def _told(store: Store, other: Store, temperatures: tuple[float, ...]) -> tuple[float, ...]:
    if not _same_groups(store, other):
        return ()
    return tuple(t for t in temperatures if knows_masses(store, t) and knows_masses(other, t))


def _same_groups(store: Store, other: Store) -> bool:
    """Whether the other's stored group sums, where it has no more than these, are of the same groups."""
    sums_only = any(isinstance(each.manifest.logit_codec, TopK) for each in (store, other))
    return not sums_only or bool((store.class_groups == other.class_groups).all())


def _all_logits(store: Store) -> bool:
    return bool(store.manifest.components("logits"))


def _all_ranks(store: Store) -> bool:
    ranks = store.manifest.array("ranks")
    return ranks is not None and ranks.width == store.manifest.num_classes


def _partner(store: Store, other: Store) -> np.ndarray | None:
    """(rows,) the other's row of each row, -1 where it has none; None where row i is row i.

    Only where the ids are not the same in the same order are those of both held in memory.
    """
    one, two = store.manifest, other.manifest
    if (one.dataset.sample_ids, one.order, len(store)) == (two.dataset.sample_ids, two.order, len(other)):
        return None
    ids, other_ids = (each.samples(["sample_id"])["sample_id"] for each in (store, other))
    try:
        found, positions = match_rows(ids, other_ids, str(store))
    except MismatchError:
        raise MismatchError(
            f"{store} and {other} have no sample in common: ids such as '{ids[0].as_py()}' and "
            f"'{other_ids[0].as_py()}'. Compare stores of the same data."
        ) from None
    partner = np.full(len(store), -1)
    partner[found] = positions
    return partner


def _joined(store: Store, partner: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, the other's rows, labels), a block at a time."""
    for rows, labels in label_blocks(store):
        if partner is None:
            yield rows, rows, labels
        elif (kept := partner[rows] >= 0).any():
            yield rows[kept], partner[rows[kept]], labels[kept]


@dataclass(kw_only=True)
class _Sums:
    store: Store
    other: Store
    temperatures: tuple[float, ...]
    rows: np.ndarray = field(default_factory=lambda: np.zeros(NUM_GROUPS, np.int64))
    same_best: np.ndarray = field(default_factory=lambda: np.zeros(NUM_GROUPS))
    overlap: float = 0.0
    correlation: float = 0.0
    ties: np.ndarray = field(default_factory=lambda: np.zeros(2))
    largest: float = 0.0
    # by temperature and group of the label: across, within head, medium and tail
    parts: dict[float, np.ndarray] = field(default_factory=dict)
    mass_error: dict[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.groups, pair = self.store.class_groups, (self.store, self.other)
        self.whole = all(map(_all_logits, pair))
        self.ordered = self.whole or all(_all_ranks(each) for each in pair)
        self.sources = tuple(order_source(each) for each in pair)
        if None in self.sources:
            raise MismatchError(
                f"{self.store} and {self.other} do not both hold logits or ranks. Nothing can be compared."
            )
        self.parts = {t: np.zeros((NUM_GROUPS, 1 + NUM_GROUPS)) for t in self.temperatures}
        self.mass_error = dict.fromkeys(self.temperatures, 0.0)

    def add(self, rows: np.ndarray, other_rows: np.ndarray, labels: np.ndarray) -> None:
        read = [self._read(self.store, rows), self._read(self.other, other_rows)]
        groups = self.groups[labels]
        self.rows += np.bincount(groups, minlength=NUM_GROUPS)
        self._add_order(read, groups)
        if self.whole:
            one, two = (values["logits"].astype(np.float64) for values in read)
            self.largest = max(self.largest, float(np.abs(one - two).max(initial=0)))
            self.ties += [float(_ties(logits).sum()) for logits in (one, two)]
        for temperature in self.temperatures:
            self._add_divergence(temperature, read, groups)

    def _read(self, store: Store, rows: np.ndarray) -> dict[str, np.ndarray]:
        names = {str(order_source(store)), *(["logits"] if self.whole else [])}
        if self.temperatures:
            names |= set(mass_arrays(store))
        return store.read(rows, arrays=tuple(names))

    def _add_order(self, read: list[dict[str, np.ndarray]], groups: np.ndarray) -> None:
        depth = self.depth
        pairs = zip((self.store, self.other), read, self.sources, strict=True)
        one, two = (best_classes(store, values[str(s)], str(s), depth) for store, values, s in pairs)
        self.same_best += np.bincount(groups, one[:, 0] == two[:, 0], minlength=NUM_GROUPS)
        shared = (one[:, :, None] == two[:, None, :]).any(2).sum()
        self.overlap += float(shared) / depth
        if self.ordered:
            scores = (values["logits"] if self.whole else -values["ranks"].argsort(1) for values in read)
            self.correlation += float(spearman(*scores).sum())

    @property
    def depth(self) -> int:
        """How many of the best are compared."""
        return min(_BEST, len(self.groups) - 1, *(_width(each) for each in (self.store, self.other)))

    def _add_divergence(self, temperature: float, read: list[dict[str, np.ndarray]], groups: np.ndarray) -> None:
        if self.whole:
            one, two = (log_softmax(values["logits"], temperature) for values in read)
            parts = decompose(one, two, self.groups)
            each = np.concatenate([parts.cross[:, None], parts.within], axis=1)
            masses = [np.exp(log_group_masses(values, self.groups)) for values in (one, two)]
        else:
            pair = zip((self.store, self.other), read, strict=True)
            logs = [self._log_masses(store, values, temperature) for store, values in pair]
            cross = cross_part(*logs)[:, None]
            each = np.concatenate([cross, np.full((len(cross), NUM_GROUPS), np.nan)], axis=1)
            masses = [np.exp(values) for values in logs]
        for group in range(NUM_GROUPS):
            self.parts[temperature][group] += each[groups == group].sum(0)
        self.mass_error[temperature] += float(np.abs(masses[0] - masses[1]).max(1).sum())

    def _log_masses(self, store: Store, values: dict[str, np.ndarray], temperature: float) -> np.ndarray:
        codec = store.manifest.logit_codec
        if isinstance(codec, TopK):
            return stored_log_group_masses(values, codec, temperature)
        return log_group_masses(log_softmax(values["logits"], temperature), self.groups)

    def result(self, missing: tuple[str, ...], inputs: SharedInputs) -> Comparison:
        total, present = int(self.rows.sum()), [g for g in range(NUM_GROUPS) if self.rows[g]]
        by_group = {GROUP_NAMES[g]: float(self.same_best[g] / self.rows[g]) for g in present}
        one, two = self.store.manifest, self.other.manifest
        return Comparison(
            other=str(self.other),
            other_id=two.store_id,
            other_teacher=two.teacher.spec,
            codecs=(str(one.logit_codec), str(two.logit_codec)),
            same_teacher=one.teacher.checksum == two.teacher.checksum,
            rows=total,
            divergences=tuple(self._divergence(t, total, present) for t in self.temperatures),
            same_best={"all": float(self.same_best.sum() / total), **by_group},
            overlap=self.overlap / total,
            rank_correlation=self.correlation / total if self.ordered else None,
            ties=(float(self.ties[0] / total), float(self.ties[1] / total)) if self.whole else None,
            largest_difference=self.largest if self.whole else None,
            missing=missing,
            inputs=inputs,
        )

    def _divergence(self, temperature: float, total: int, present: list[int]) -> Divergence:
        parts = np.maximum(self.parts[temperature], 0)  # below 0 by rounding only
        means = parts.sum(0) / total
        by_label = {}
        for group in present:
            cross, *within = (parts[group] / self.rows[group]).tolist()
            by_label[GROUP_NAMES[group]] = (cross, sum(within) if self.whole else None)
        return Divergence(
            temperature=temperature,
            cross=float(means[0]),
            within=dict(zip(GROUP_NAMES, means[1:].tolist(), strict=True)) if self.whole else None,
            kl=float(means.sum()) if self.whole else None,
            group_mass_error=self.mass_error[temperature] / total,
            by_label=by_label,
        )


def _width(store: Store) -> int:
    info = store.manifest.array(str(order_source(store)))
    return store.manifest.num_classes if info is None else info.width


def _ties(logits: np.ndarray) -> np.ndarray:
    """(n,) fraction of the neighbours in each row's order that are equal."""
    ordered = np.sort(logits, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).mean(1)


def _missing(store: Store, other: Store, temperatures: tuple[float, ...]) -> Iterator[str]:
    told = _told(store, other, temperatures)
    if not _same_groups(store, other):
        yield "The stores have other class groups, and one holds sums over its own groups only: no KL can be told."
    elif left := [f"{t:g}" for t in temperatures if t not in told]:
        yield f"No KL can be told at T = {', '.join(left)}: not both stores hold what it needs."
    if not (_all_logits(store) and _all_logits(other)):
        yield (
            "Not both stores hold all logits: the part of the KL within groups and the largest difference cannot be "
            "told; the rank correlation only where both hold all ranks."
        )
