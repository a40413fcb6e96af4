"""Successive halving: at a few epochs the worse half of the settings is stopped.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016, section 3,
https://arxiv.org/abs/1502.07943. All settings are compared after the same number of epochs.
"""

from collections.abc import Mapping, Sequence

from .leaderboard import mean_of, rank_value
from .table import Row

# an eighth of the epochs is the least that a ranking is worth something after
_MOST_RUNGS = 3


def rungs(num_points: int, epochs: int) -> list[int]:
    """The epochs after which the worse half is stopped: at most 1/8, 1/4 and 1/2 of them.

    Args:
        num_points: settings that begin.
        epochs: of a whole training.
    """
    count = min(_MOST_RUNGS, num_points.bit_length() - 1, epochs.bit_length() - 1)
    return [epochs >> halvings for halvings in range(count, 0, -1)]


def worse_half(groups: Mapping[tuple[str, ...], Sequence[Row]], metric: str) -> list[Row]:
    """The trials to stop, of those that have epochs left.

    Settings are ranked by the mean of the metric over their seeds, so that a setting goes on or stops as a whole; of
    equal ones the earlier goes on.

    Args:
        groups: the trials of each setting in the running.
        metric: of the validation.
    """
    alive = {point: [row for row in rows if row.state == "waiting"] for point, rows in groups.items()}
    alive = {point: rows for point, rows in alive.items() if rows}
    ranked = sorted(alive.values(), key=lambda rows: -rank_value(mean_of(rows, metric)))
    return [row for rows in ranked[(len(ranked) + 1) // 2 :] for row in rows]
