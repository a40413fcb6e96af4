"""Probability masses of groups, and the parts of a divergence between and within groups, in float64.

The identity (LTKD, section on the decomposition, https://arxiv.org/abs/2506.18496): with ``p_G = sum_{i in G} p_i``,

    KL(p || q) = sum_G p_G log(p_G / q_G)  +  sum_G p_G KL(p_i / p_G || q_i / q_G)
                 across groups                within groups

Shapes: n rows, C classes, G groups.
"""

from dataclasses import dataclass

import numpy as np

from ...stores import Store
from ...stores.arrays import GROUP_NAMES
from ...stores.codecs import TopK
from ...stores.codecs.top import logsumexp

NUM_GROUPS = len(GROUP_NAMES)
MASS_ARRAYS = ("logsumexp", "group_logsumexp")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of ``KL(p || q)`` of every row; their sum is the whole.

    Attributes:
        cross: (n,) across groups.
        within: (n, G) within each group, weighted by the first's mass of it.
    """

    cross: np.ndarray
    within: np.ndarray


def log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """``log softmax(z / T)`` of (n, C) logits of any float type: float64."""
    scores = logits.astype(np.float64) / temperature
    return scores - logsumexp(scores)[:, None]


def log_group_masses(log_p: np.ndarray, class_groups: np.ndarray) -> np.ndarray:
    """(n, G) log of each group's mass; -inf for a group without classes."""
    return np.stack([logsumexp(log_p[:, class_groups == group]) for group in range(NUM_GROUPS)], axis=1)


def stored_log_group_masses(read: dict[str, np.ndarray], codec: TopK, temperature: float) -> np.ndarray:
    """The same of a store of the best classes: exact, from ``MASS_ARRAYS`` at a temperature it stores."""
    index = codec.temperature_index(temperature)
    groups = read["group_logsumexp"][:, index * NUM_GROUPS : (index + 1) * NUM_GROUPS].astype(np.float64)
    return groups - read["logsumexp"][:, [index]]


def cross_part(log_mass_p: np.ndarray, log_mass_q: np.ndarray) -> np.ndarray:
    """(n,) the part of the divergence across groups, from the logs of the groups' masses (n, G)."""
    return _weighted(log_mass_p, log_mass_p, log_mass_q).sum(1)


def decompose(log_p: np.ndarray, log_q: np.ndarray, class_groups: np.ndarray) -> Parts:
    """Cut ``KL(p || q)`` into its parts.

    Args:
        log_p: (n, C) log-probabilities, float64.
        log_q: (n, C) those of the other.
        class_groups: (C,) group of every class.
    """
    log_mass_p, log_mass_q = (log_group_masses(values, class_groups) for values in (log_p, log_q))
    within = np.zeros_like(log_mass_p)
    for group in np.unique(class_groups):
        members = class_groups == group
        shape_p, shape_q = log_p[:, members] - log_mass_p[:, [group]], log_q[:, members] - log_mass_q[:, [group]]
        within[:, group] = _weighted(log_p[:, members], shape_p, shape_q).sum(1)
    return Parts(cross=cross_part(log_mass_p, log_mass_q), within=within)


def sum_by_label(labels: np.ndarray, values: np.ndarray, num_classes: int) -> np.ndarray:
    """Sums of (n, K) values over the rows of each label: (C, K)."""
    return np.stack([np.bincount(labels, column, minlength=num_classes) for column in values.T], axis=1)


def knows_masses(store: Store, temperature: float) -> bool:
    """Whether the groups' masses at a temperature can be told from what is stored."""
    codec = store.manifest.logit_codec
    if isinstance(codec, TopK):
        return any(np.isclose(temperature, kept, rtol=1e-9) for kept in codec.temperatures)
    return bool(store.manifest.logit_arrays)


def _weighted(log_weight: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """``w (log p - log q)``, 0 where the weight is."""
    weight = np.exp(log_weight)
    with np.errstate(invalid="ignore"):  # -inf minus -inf, where the weight is 0
        return np.where(weight > 0, weight * (log_p - log_q), 0.0)
