"""Joining a data set to a store by sample id, never by position."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import MismatchError, UsageError
from .streaming import BatchSampler


class MapDataset(Protocol):
    """Anything with a length and items by position, such as a torch map-style data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> Any: ...


class JoinedDataset:
    """The samples that a data set and a store share, in store order.

    A map-style data set itself: ``joined[i]`` is the data set's item with the store row appended as last
    element, or under the key ``row`` where items are dicts.

    Attributes:
        dataset: the data set.
        positions: (M,) int64, positions in the data set.
        rows: (M,) int64, the store row of each, ascending.
    """

    def __init__(self, dataset: MapDataset, positions: np.ndarray, rows: np.ndarray, chunk_rows: int) -> None:
        self.dataset, self.positions, self.rows = dataset, positions, rows
        self._chunk_rows = chunk_rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return _with_row(self.dataset[int(self.positions[index])], int(self.rows[index]))

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Several items at once; torch's DataLoader calls this where a data set has it."""
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is None:
            return [self[index] for index in indices]
        items = fetch(self.positions[indices].tolist())
        return [_with_row(item, row) for item, row in zip(items, self.rows[indices].tolist(), strict=True)]

    def batch_sampler(
        self, batch_size: int, *, order: str = "random", seed: int = 0, drop_last: bool = False
    ) -> BatchSampler:
        """A batch sampler over this data set; ``order="chunks"`` keeps the store's reads local."""
        return BatchSampler(self.rows, self._chunk_rows, batch_size, order=order, seed=seed, drop_last=drop_last)


def _with_row(item: Any, row: int) -> Any:
    return {**item, "row": row} if isinstance(item, dict) else (*item, row)


def match_rows(
    store_ids: pa.ChunkedArray, sample_ids: Sequence[str] | pa.Array | pa.ChunkedArray, store: str
) -> tuple[np.ndarray, np.ndarray]:
    """The store rows, ascending, whose sample a data set also has, and the positions of those samples in it.

    Args:
        store_ids: the store's sample ids, by row.
        sample_ids: the data set's, by position.
        store: how to name the store in an error.

    Raises:
        UsageError: an id is not a text, or the data set has one twice.
        MismatchError: there is no common id.
    """
    wanted = _texts(sample_ids)
    if len(wanted.unique()) != len(wanted):
        raise UsageError("The data set has the same sample id twice. Ids must be unique: they join it to the store.")
    # pyarrow makes the functions of this module when it is imported: no checker sees them
    found = pc.index_in(store_ids, value_set=wanted)  # pyright: ignore[reportAttributeAccessIssue]
    rows = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    if not len(rows):
        example = wanted[0].as_py() if len(wanted) else "none"
        raise MismatchError(
            f"No sample of the data set is in {store}: the store has ids such as '{store_ids[0].as_py()}', "
            f"the data set such as '{example}'. Was the store made from this data set and split?"
        )
    positions = found.take(pa.array(rows)).to_numpy().astype(np.int64)
    return rows, positions


def _texts(sample_ids: Any) -> Any:
    try:
        if not isinstance(sample_ids, pa.Array | pa.ChunkedArray):
            sample_ids = pa.array(sample_ids, pa.string())
        texts = sample_ids if pa.types.is_string(sample_ids.type) else sample_ids.cast(pa.string())
    except (pa.ArrowException, TypeError, UnicodeError) as error:
        raise UsageError(f"Sample ids must be texts ({error}).") from None
    if texts.null_count:
        raise UsageError(f"{texts.null_count} of the sample ids are missing. Every sample needs one.")
    return texts
