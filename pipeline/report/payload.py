"""What a store's payload says of its teacher: masses of groups and classes, the label's place, coverage; one pass.

Shapes: n rows, C classes, G groups, R stored or looked at places of the order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...stores import Store
from ...stores.arrays import GROUP_NAMES
from ...stores.codecs import TopK
from ...stores.ranking import rank_classes
from .codec_fidelity import CodecFidelity, FidelitySums, loses_nothing
from .divergence import (
    MASS_ARRAYS,
    NUM_GROUPS,
    knows_masses,
    log_group_masses,
    log_softmax,
    stored_log_group_masses,
    sum_by_label,
)
from .sample_tables import class_ids

# places of the order at which coverage is told
DEPTHS = (1, 2, 5, 10, 20, 50, 100)
# looked at together: 4 MB as float64, of which a few copies are held
_BLOCK_LOGITS = 2**19


@dataclass(frozen=True, kw_only=True)
class MassStatistics:
    """The teacher's probability mass at one temperature.

    Attributes:
        temperature: T of ``softmax(z / T)``.
        groups: the groups' mean mass over the samples, (G,).
        balanced: the same where every class counts alike: the mean over classes of the mean over their samples.
        flow: (G, G) mean mass that the samples of a group (rows, by label) give to each group; NaN without samples.
        classes: the classes' mean mass over the samples, (C,); None where it cannot be known.
    """

    temperature: float
    groups: tuple[float, ...]
    balanced: tuple[float, ...]
    flow: tuple[tuple[float, ...], ...]
    classes: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class OrderStatistics:
    """The teacher's order of the classes, down to a depth.

    Attributes:
        depths: the k at which the others are told, ascending.
        covered: by group name, for each k: the fraction of the group's classes that are among the teacher's best k
            of at least one sample.
        found: by group name and "all", for each k: the fraction of the samples whose label is among the best k.
    """

    depths: tuple[int, ...]
    covered: dict[str, tuple[float, ...]]
    found: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class PayloadStatistics:
    """What the payload says.

    Attributes:
        masses: one for each temperature at which they can be told.
        order: None where neither ranks nor logits are stored.
        fidelity: what storing changed; None where nothing was, and of a store without logits.
        missing: what cannot be told, and why, in sentences.
    """

    masses: tuple[MassStatistics, ...]
    order: OrderStatistics | None
    fidelity: CodecFidelity | None
    missing: tuple[str, ...]


def payload_statistics(store: Store, temperatures: Sequence[float]) -> PayloadStatistics:
    """Read view 0 of the payload, a block of rows after the other; memory does not depend on the number of rows."""
    groups, source = store.class_groups, order_source(store)
    masses = [_MassSums(t, groups) for t in temperatures if knows_masses(store, t)]
    order = None if source is None else _OrderSums(groups, source, _width(store, source))
    fidelity = FidelitySums(store, temperatures) if store.manifest.logit_arrays and not loses_nothing(store) else None
    arrays = {*(mass_arrays(store) if masses else ()), *([source] if source else [])}
    columns: tuple[str, ...] = ("label",)
    if fidelity is not None:
        arrays, columns = arrays | set(fidelity.arrays), columns + fidelity.columns
    for rows, said in _blocks(store, columns):
        read = store.read(rows, arrays=tuple(arrays)) if arrays else {}
        for sums in masses:
            sums.add(store, read, said["label"])
        if order is not None:
            order.add(store, read, said["label"])
        if fidelity is not None:
            fidelity.add(rows, read, said)
    return PayloadStatistics(
        masses=tuple(sums.result() for sums in masses),
        order=None if order is None else order.result(),
        fidelity=None if fidelity is None else fidelity.result(),
        missing=tuple(_missing(store, temperatures)),
    )


def mass_arrays(store: Store) -> tuple[str, ...]:
    """The arrays that the groups' masses are computed from."""
    return MASS_ARRAYS if isinstance(store.manifest.logit_codec, TopK) else ("logits",)


def order_source(store: Store) -> str | None:
    """The array that gives the teacher's order: the ranks, from unrounded logits, before anything else."""
    if store.manifest.array("ranks"):
        return "ranks"
    if store.manifest.array("top_classes"):
        return "top_classes"
    return "logits" if store.manifest.components("logits") else None


def best_classes(store: Store, values: np.ndarray, source: str, depth: int) -> np.ndarray:
    """The best classes of each row, best first, equal logits by class id: (n, depth) int64.

    Args:
        store: where they are from.
        values: (n, R) class ids in order, or (n, C) logits.
        source: which of the two: "logits", or the name of an array of class ids.
        depth: how many.

    Raises:
        CorruptStoreError: an id is no class of the store.
    """
    if source == "logits":
        return rank_classes(values.astype(np.float32))[:, :depth].astype(np.int64)
    return class_ids(store, values[:, :depth])


def label_blocks(store: Store) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Runs of rows, in order, and their labels; so many rows together that their logits stay small."""
    for rows, said in _blocks(store, ("label",)):
        yield rows, said["label"]


def _blocks(store: Store, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The same with several columns of the sample tables, "label" among them."""
    grid, step = store.manifest.grid, max(1, _BLOCK_LOGITS // store.manifest.num_classes)
    for block in range(grid.chunks_per_view):
        table = store.samples(columns, blocks=[block])
        said = {name: table[name].to_numpy() for name in columns}
        said["label"] = class_ids(store, said["label"])
        rows = np.arange(grid.rows(block).start, grid.rows(block).stop)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            yield rows[part], {name: values[part] for name, values in said.items()}


class _MassSums:
    """Sums of the masses at one temperature."""

    def __init__(self, temperature: float, class_groups: np.ndarray) -> None:
        self._temperature, self._groups = temperature, class_groups
        self._rows = np.zeros(len(class_groups), np.int64)
        self._by_label = np.zeros((len(class_groups), NUM_GROUPS))
        self._classes: np.ndarray | None = np.zeros(len(class_groups))

    def add(self, store: Store, read: dict[str, np.ndarray], labels: np.ndarray) -> None:
        codec = store.manifest.logit_codec
        if isinstance(codec, TopK):
            self._classes = None
            masses = stored_log_group_masses(read, codec, self._temperature)
        else:
            log_p = log_softmax(read["logits"], self._temperature)
            masses = log_group_masses(log_p, self._groups)
            self._classes = np.exp(log_p).sum(0) + self._classes
        self._rows += np.bincount(labels, minlength=len(self._rows))
        self._by_label += sum_by_label(labels, np.exp(masses), len(self._rows))

    def result(self) -> MassStatistics:
        seen, total = self._rows > 0, self._rows.sum()
        rows = np.bincount(self._groups, self._rows, minlength=NUM_GROUPS)
        flow = np.stack([self._by_label[self._groups == group].sum(0) for group in range(NUM_GROUPS)])
        with np.errstate(invalid="ignore"):
            flow /= rows[:, None]
        return MassStatistics(
            temperature=self._temperature,
            groups=tuple((self._by_label.sum(0) / total).tolist()),
            balanced=tuple((self._by_label[seen] / self._rows[seen, None]).mean(0).tolist()),
            flow=tuple(map(tuple, flow.tolist())),
            classes=None if self._classes is None else tuple((self._classes / total).tolist()),
        )


class _OrderSums:
    """Which classes were ever among the best k, and where the labels were found."""

    def __init__(self, class_groups: np.ndarray, source: str, width: int) -> None:
        self._groups, self._source = class_groups, source
        self._depths = tuple(k for k in DEPTHS if k <= width and k < len(class_groups))
        self._seen = np.zeros((self._depths[-1], len(class_groups)), bool)
        self._rows = np.zeros(NUM_GROUPS, np.int64)
        self._found = np.zeros((NUM_GROUPS, self._depths[-1]), np.int64)

    def add(self, store: Store, read: dict[str, np.ndarray], labels: np.ndarray) -> None:
        best = best_classes(store, read[self._source], self._source, len(self._seen))
        self._seen[np.arange(len(self._seen)), best] = True
        groups, hits = self._groups[labels], best == labels[:, None]
        self._rows += np.bincount(groups, minlength=NUM_GROUPS)
        self._found += np.stack([hits[groups == group].sum(0) for group in range(NUM_GROUPS)])

    def result(self) -> OrderStatistics:
        places = np.array(self._depths) - 1
        seen = np.logical_or.accumulate(self._seen, axis=0)[places]
        found = self._found.cumsum(1)[:, places]
        covered = {
            name: tuple(seen[:, self._groups == group].mean(1).tolist())
            for group, name in enumerate(GROUP_NAMES)
            if (self._groups == group).any()
        }
        by_group = {
            name: tuple((found[group] / self._rows[group]).tolist())
            for group, name in enumerate(GROUP_NAMES)
            if self._rows[group]
        }
        overall = tuple((found.sum(0) / self._rows.sum()).tolist())
        return OrderStatistics(depths=self._depths, covered=covered, found={"all": overall, **by_group})


def _width(store: Store, source: str) -> int:
    info = store.manifest.array(source)
    return store.manifest.num_classes if info is None else info.width


def _missing(store: Store, temperatures: Sequence[float]) -> Iterator[str]:
    codec, unknown = store.manifest.logit_codec, [f"{t:g}" for t in temperatures if not knows_masses(store, t)]
    if not store.manifest.logit_arrays:
        yield "The store holds the order of the classes and no logits: no probability mass can be told."
    elif isinstance(codec, TopK):
        yield (
            f"The codec {codec} keeps the best {codec.k} classes. The groups' masses are exact; those of single "
            "classes are not known."
        )
        if unknown:
            kept = ", ".join(f"{t:g}" for t in codec.temperatures)
            yield f"No mass can be told at T = {', '.join(unknown)}: the codec stores sums at T = {kept} only."
    elif store.manifest.codec is not None:
        yield f"The codec {codec} changes logits a little: masses are those of the stored values, not of the teacher's."
    if order_source(store) is None:
        yield "Neither ranks nor logits are stored: no order of the classes can be told."
