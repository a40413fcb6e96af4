"""What the teacher says of a batch, read from the store.

Shapes: B batch, C classes, R ranks, G groups, N rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..stores import JoinedDataset, MissingArrayError, Store
from .inputs import Batch
from .losses import group_masses
from .losses.objective import Objective

Targets = Callable[[Batch], dict[str, Tensor]]

_STREAMED_ROWS = 8192


class StoreTargets:
    """The arrays an objective needs, for the samples of a batch: ``logits`` (B, C) and ``ranks`` (B, R).

    Args:
        store: the store.
        joined: which data set position is which row.
        objective: names the arrays.
        num_positions: size of the data set.

    Raises:
        MissingArrayError: the store lacks an array that a loss needs.
    """

    def __init__(self, store: Store, joined: JoinedDataset, objective: Objective, num_positions: int) -> None:
        for loss in objective.losses:
            for name in sorted(loss.needs):
                if store.manifest.array(name) is None:
                    has = ", ".join(array.name for array in store.manifest.arrays)
                    raise MissingArrayError(
                        f"The loss '{loss.name}' needs '{name}', which {store.path} does not carry (only {has}). "
                        f"Choose another loss, or extract again with --write {has},{name}."
                    )
        self._store, self._arrays = store, sorted(objective.needs)
        self._row_of = np.full(num_positions, -1, np.int64)
        self._row_of[joined.positions] = joined.rows

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The arrays for a batch, in the stored dtypes."""
        arrays = self._store.read(self._row_of[batch.positions], arrays=self._arrays)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def no_targets(_: Batch) -> dict[str, Tensor]:
    """The targets of a run without a teacher: none."""
    return {}


def store_group_mass(store: Store, temperature: float, rows: np.ndarray) -> Tensor:
    """The teacher's group masses over all samples in use, at a temperature: (G,), in one streaming pass.

    Args:
        store: must carry logits.
        temperature: T of the softmax.
        rows: (M,) the store rows in use.
    """
    groups = torch.from_numpy(store.class_groups)
    parts: list[Any] = [
        group_masses(torch.from_numpy(store.read(rows[start : start + _STREAMED_ROWS])["logits"]), groups, temperature)
        for start in range(0, len(rows), _STREAMED_ROWS)
    ]
    return torch.stack(parts).sum(0)
