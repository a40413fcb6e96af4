"""How far a codec changes what the teacher says, measured on logits.

Shapes: n rows, C classes, G groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import GROUP_NAMES
from .codec import Arrays, Codec, LogitCodec
from .top import TopK, logsumexp


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Stored against true logits, over some rows. Where there are temperatures, there is one number for each.

    Attributes:
        rows: how many.
        kl: mean ``KL( softmax(z / T) || softmax(z' / T) )`` in nats. For top-k, z' has the tail's mass spread evenly:
            what the true shape of the tail would add. No loss is computed from such a tail.
        top1_flips: fraction of rows whose best class is another.
        adjacent_ties: fraction of the neighbours in the order of the classes that are equal after storing.
        rank_correlation: mean Spearman correlation of the classes' order, ties sharing their mean rank.
        group_mass_error: mean over rows of the largest difference of a group's probability mass.
        coverage: the mass that a group's kept classes have, as a fraction of the group's: (G,) by temperature; 1 for
            all codecs but top-k, NaN for a group without classes.
    """

    rows: int
    kl: dict[float, float]
    top1_flips: float
    adjacent_ties: float
    rank_correlation: float
    group_mass_error: dict[float, float]
    coverage: dict[float, tuple[float, ...]]


class FidelityTally:
    """Sums up the fidelity of a codec, batch by batch.

    Args:
        codec: which.
        class_groups: (C,) group of every class: 0 head, 1 medium, 2 tail.
        constants: the arrays the codec stores once.
        temperatures: to measure at; under top-k, those that it stores too.
    """

    def __init__(
        self,
        codec: Codec,
        class_groups: np.ndarray,
        *,
        constants: Arrays | None = None,
        temperatures: Sequence[float] = (1.0, 4.0),
    ) -> None:
        self._codec, self._groups, self._constants = codec, class_groups, constants or {}
        self._temperatures = tuple(temperatures)
        self._rows, self._flips, self._ties, self._correlation = 0, 0, 0.0, 0.0
        self._kl = dict.fromkeys(self._temperatures, 0.0)
        self._group_error = dict.fromkeys(self._temperatures, 0.0)
        self._kept = {temperature: np.zeros(len(GROUP_NAMES)) for temperature in self._temperatures}
        self._mass = {temperature: np.zeros(len(GROUP_NAMES)) for temperature in self._temperatures}

    def add(self, logits: np.ndarray, features: np.ndarray | None = None) -> None:
        """Encode and decode a batch, and compare.

        Args:
            logits: (n, C) float32, the teacher's.
            features: (n, F) float32, for a codec that stores these.
        """
        values = features if features is not None and self._codec.source == "features" else logits
        self.compare(logits, self._codec.encode(values, self._groups))

    def compare(self, logits: np.ndarray, stored: Arrays) -> None:
        """Compare a batch with what was stored of it.

        Args:
            logits: (n, C) float32, the true ones.
            stored: (n, width) of the codec's arrays, by name.
        """
        stored = {**stored, **self._constants}
        scores, kept = _scores(self._codec, stored, logits.shape)
        self._rows += len(logits)
        self._flips += int((scores.argmax(1) != logits.argmax(1)).sum())
        falling = -np.sort(-scores, axis=1)
        self._ties += float((falling[:, 1:] == falling[:, :-1]).mean(1).sum())
        self._correlation += float(spearman(logits, scores).sum())
        for temperature in self._temperatures:
            true = _log_softmax(logits.astype(np.float64) / temperature)
            found = _log_probabilities(self._codec, stored, scores, kept, temperature)
            self._kl[temperature] += float(_divergence(true, found).sum())
            masses, found_masses = self._masses(np.exp(true)), self._stored_masses(stored, found, temperature)
            self._group_error[temperature] += float(np.abs(masses - found_masses).max(1).sum())
            self._mass[temperature] += masses.sum(0)
            self._kept[temperature] += self._masses(np.exp(true) * kept).sum(0)

    def result(self) -> Fidelity:
        """The means over all rows so far."""
        rows = max(self._rows, 1)
        with np.errstate(invalid="ignore"):
            coverage = {t: tuple((self._kept[t] / self._mass[t]).tolist()) for t in self._temperatures}
        return Fidelity(
            rows=self._rows,
            kl=_per_row(self._kl, rows),
            top1_flips=self._flips / rows,
            adjacent_ties=self._ties / rows,
            rank_correlation=self._correlation / rows,
            group_mass_error=_per_row(self._group_error, rows),
            coverage=coverage,
        )

    def _stored_masses(self, stored: Arrays, log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
        """The groups' masses as the stored arrays give them: top-k stores have them as such."""
        if not isinstance(self._codec, TopK):
            return self._masses(np.exp(log_probabilities))
        index, width = self._codec.temperature_index(temperature), len(GROUP_NAMES)
        groups = stored["group_logsumexp"][:, index * width : (index + 1) * width].astype(np.float64)
        return np.exp(groups - stored["logsumexp"][:, [index]])

    def _masses(self, probabilities: np.ndarray) -> np.ndarray:
        groups = [probabilities[:, self._groups == group].sum(1) for group in range(len(GROUP_NAMES))]
        return np.stack(groups, axis=1)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of (n, C) with the other's: (n,); 0 where one has no order."""
    left, right = (_mean_ranks(values) - (values.shape[1] - 1) / 2 for values in (one, other))
    spread = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return (left * right).sum(1) / np.where(spread > 0, spread, 1)


def _scores(codec: Codec, stored: Arrays, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What orders the classes after storing, and which of them are stored: (n, C) each."""
    if isinstance(codec, LogitCodec):
        return codec.decode(stored).astype(np.float64), np.ones(shape, bool)
    scores = np.full(shape, -np.inf)
    np.put_along_axis(scores, stored["top_classes"].astype(np.int64), stored["top_logits"].astype(np.float64), axis=1)
    return scores, np.isfinite(scores)


def _log_probabilities(
    codec: Codec, stored: Arrays, scores: np.ndarray, kept: np.ndarray, temperature: float
) -> np.ndarray:
    if not isinstance(codec, TopK):
        return _log_softmax(scores / temperature)
    total = stored["logsumexp"][:, [codec.temperature_index(temperature)]].astype(np.float64)
    known = scores / temperature - total
    tail = np.maximum(1 - np.exp(known).sum(1, keepdims=True), np.finfo(np.float64).tiny)
    missing = np.maximum((~kept).sum(1, keepdims=True), 1)
    return np.where(kept, known, np.log(tail / missing))


def _divergence(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    return (np.exp(log_p) * (log_p - log_q)).sum(1)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - logsumexp(scores)[:, None]


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """(n, C) the place of each element in its row, equal ones sharing their mean place."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    places = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    changes = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], axis=1), places, 0), axis=1)
    falling = np.where(np.concatenate([changes, edge], axis=1), places, values.shape[1] - 1)
    last = np.minimum.accumulate(falling[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks


def _per_row(sums: Mapping[float, float], rows: int) -> dict[float, float]:
    return {key: total / rows for key, total in sums.items()}
