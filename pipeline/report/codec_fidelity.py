"""What storing changed: the stored logits beside what the sample tables and the ranks keep of the teacher's own.

Confidence, entropy and ranks were computed from float32 logits before anything was rounded or left out, so that a lossy
store holds its own measure. Shapes: n rows, C classes, G groups, K kept classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...stores import Store
from ...stores.arrays import GROUP_NAMES
from ...stores.codecs import Float32, TopK
from ...stores.codecs.fidelity import spearman
from ...stores.confidence import confidence_and_entropy
from .divergence import NUM_GROUPS, knows_masses

# spread evenly over the store: as good as all of them, at a cost that does not grow
_MAX_ROWS = 20_000

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class CodecFidelity:
    """The stored logits beside the teacher's, over evenly spread rows of view 0.

    Attributes:
        codec: which.
        rows: how many were compared.
        same_best: by the label's group and "all": fraction of the rows whose best stored class is the teacher's.
        confidence_error: mean difference of the largest probability at T = 1; None where that cannot be told.
        entropy_error: mean difference of the entropy at T = 1, in nats; None where that cannot be told.
        rank_correlation: mean Spearman correlation with the stored ranks; None where these are not of all classes.
        ties: fraction of the neighbours in the order of the classes that are equal; None where not all are stored.
        kept_mass: of a store of the best classes, by temperature: by group and "all", the fraction of the
            teacher's mass that the kept classes have.
    """

    codec: str
    rows: int
    same_best: dict[str, float]
    confidence_error: float | None
    entropy_error: float | None
    rank_correlation: float | None
    ties: float | None
    kept_mass: dict[float, dict[str, float]]


def loses_nothing(store: Store) -> bool:
    """Whether the logits are stored as the teacher gave them."""
    return isinstance(store.manifest.logit_codec, Float32)


class FidelitySums:
    """Sums over the rows so far; only for stores that hold logits.

    Args:
        store: which.
        temperatures: at which the kept mass is told, where the store has it.

    Attributes:
        arrays: what it reads of the payload.
        columns: what it reads of the sample tables beside the label.
    """

    columns: ClassVar[tuple[str, ...]] = ("teacher_top1", "teacher_confidence", "teacher_entropy")

    def __init__(self, store: Store, temperatures: Sequence[float]) -> None:
        manifest = store.manifest
        self._codec, self._groups = manifest.logit_codec, store.class_groups
        self._stride = -(-manifest.num_samples // _MAX_ROWS)
        ranks = manifest.array("ranks")
        self._ordered = ranks is not None and ranks.width == manifest.num_classes
        top = ("top_classes", "top_logits", "logsumexp", "group_logsumexp")
        self.arrays = (*(top if isinstance(self._codec, TopK) else ("logits",)), *(["ranks"] if self._ordered else []))
        self._rows = np.zeros(NUM_GROUPS, np.int64)
        self._same = np.zeros(NUM_GROUPS)
        # sums over the rows; NaN, and so forever, where a codec cannot tell
        self._means: dict[str, float] = dict.fromkeys(("confidence", "entropy", "correlation", "ties"), 0.0)
        told = [t for t in temperatures if isinstance(self._codec, TopK) and knows_masses(store, t)]
        self._kept = {temperature: np.zeros((2, NUM_GROUPS)) for temperature in told}
        self._knows_confidence = knows_masses(store, 1.0)

    def add(self, rows: np.ndarray, read: Columns, said: Columns) -> None:
        """Compare some rows.

        Args:
            rows: (n,) their numbers.
            read: (n, width) of the arrays of the payload.
            said: (n,) of "label" and of ``columns``.
        """
        chosen = rows % self._stride == 0
        if not chosen.any():
            return
        read, said = ({name: values[chosen] for name, values in each.items()} for each in (read, said))
        if isinstance(self._codec, TopK):
            best, found = self._add_top(self._codec, read)
        else:
            best, found = self._add_logits(read)
        groups = self._groups[said["label"]]
        self._rows += np.bincount(groups, minlength=NUM_GROUPS)
        self._same += np.bincount(groups, best == said["teacher_top1"], minlength=NUM_GROUPS)
        for name, values in found.items():
            true = said.get(f"teacher_{name}")
            self._means[name] += float((values if true is None else np.abs(values - true)).sum())

    def result(self) -> CodecFidelity:
        """The means over all rows so far."""
        total, present = int(self._rows.sum()), [g for g in range(NUM_GROUPS) if self._rows[g]]
        means = {name: value / total if np.isfinite(value) else None for name, value in self._means.items()}
        kept = {}
        for temperature, (inside, whole) in self._kept.items():
            groups = {GROUP_NAMES[g]: float(inside[g] / whole[g]) for g in range(NUM_GROUPS) if whole[g] > 0}
            kept[temperature] = {"all": float(inside.sum() / whole.sum()), **groups}
        return CodecFidelity(
            codec=str(self._codec),
            rows=total,
            same_best={
                "all": float(self._same.sum() / total),
                **{GROUP_NAMES[g]: float(self._same[g] / self._rows[g]) for g in present},
            },
            confidence_error=means["confidence"],
            entropy_error=means["entropy"],
            rank_correlation=means["correlation"],
            ties=means["ties"],
            kept_mass=kept,
        )

    def _add_logits(self, read: Columns) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The best class of each row, and what is summed: (n,) each."""
        logits = read["logits"].astype(np.float32)
        confidence, entropy = confidence_and_entropy(logits)
        ordered = np.sort(logits, axis=1)
        ties = (ordered[:, 1:] == ordered[:, :-1]).mean(1)
        unknown = np.full(len(logits), np.nan)
        correlation = spearman(logits, -read["ranks"].argsort(1)) if self._ordered else unknown
        best = logits.argmax(1)  # of equal ones the lowest class id, as in ranks
        return best, {"confidence": confidence, "entropy": entropy, "correlation": correlation, "ties": ties}

    def _add_top(self, codec: TopK, read: Columns) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        classes, logits = read["top_classes"].astype(np.int64), read["top_logits"].astype(np.float64)
        for temperature, sums in self._kept.items():
            index = codec.temperature_index(temperature)
            total = read["logsumexp"][:, [index]].astype(np.float64)
            inside = np.exp(logits / temperature - total)
            whole = np.exp(read["group_logsumexp"][:, index * NUM_GROUPS : (index + 1) * NUM_GROUPS] - total)
            sums[0] += np.bincount(self._groups[classes].ravel(), inside.ravel(), minlength=NUM_GROUPS)
            sums[1] += whole.sum(0)
        unknown = np.full(len(logits), np.nan)
        confidence = unknown
        if self._knows_confidence:
            confidence = np.exp(logits[:, 0] - read["logsumexp"][:, codec.temperature_index(1.0)])
        return classes[:, 0], {"confidence": confidence, "entropy": unknown, "correlation": unknown, "ties": unknown}
