"""How far codecs change what the teacher says, measured on the pilot, with the spread of the measurement.

Shapes: n rows, C classes, F features.
"""

from collections.abc import Sequence

import numpy as np

from ...stores.arrays import GROUP_NAMES
from ...stores.codecs import Codec, FidelityTally, TopK
from .records import Estimate, Fidelity

_TEMPERATURES = (1.0, 4.0)
_FOLDS = 10
_BATCH = 256


def measure_fidelity(
    codec: Codec,
    logits: np.ndarray,
    class_groups: np.ndarray,
    *,
    features: np.ndarray | None = None,
    constants: dict[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Fidelity:
    """The fidelity of a codec over some rows, and its standard error over random tenths of them.

    Args:
        codec: which.
        logits: (n, C) float32, n at least 2.
        class_groups: (C,) group of every class.
        features: (n, F) float32, for a codec that stores these.
        constants: the arrays that the codec stores once.
        seed: which rows are in which tenth.
    """
    temperatures = tuple(t for t in _TEMPERATURES if not isinstance(codec, TopK) or t in codec.temperatures)
    order = np.random.default_rng(seed).permutation(len(logits))
    folds = []
    for rows in np.array_split(order, min(_FOLDS, len(order))):
        tally = FidelityTally(codec, class_groups, constants=constants, temperatures=temperatures)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            tally.add(logits[part], None if features is None else features[part])
        folds.append(tally.result())
    groups = enumerate(GROUP_NAMES)
    return Fidelity(
        codec=str(codec),
        samples=len(logits),
        kl={f"{t:g}": _estimate([fold.kl[t] for fold in folds]) for t in temperatures},
        top1_flips=_estimate([fold.top1_flips for fold in folds]),
        adjacent_ties=_estimate([fold.adjacent_ties for fold in folds]),
        rank_correlation=_estimate([fold.rank_correlation for fold in folds]),
        group_mass_error={f"{t:g}": _estimate([fold.group_mass_error[t] for fold in folds]) for t in temperatures},
        coverage={
            name: {f"{t:g}": _estimate([fold.coverage[t][group] for fold in folds]) for t in temperatures}
            for group, name in groups
        },
    )


def _estimate(values: Sequence[float]) -> Estimate:
    numbers = np.asarray(values)
    error = numbers.std(ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else np.nan
    return Estimate(value=float(numbers.mean()), error=float(error))
