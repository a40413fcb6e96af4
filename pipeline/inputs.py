"""Batches of network inputs: read, preprocessed and digested, in this process or in loader workers.

Shapes: B batch, H and W image size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..stores.errors import BadSampleError, KdpipeError, UsageError
from .data import Samples
from .data.samples import ArrayItems
from .views import Preprocessing, input_digest


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        positions: (B,) int64, positions in the data set.
        inputs: (B, channels, H, W), or whatever the data set gives, stacked.
        labels: (B,) int64.
        digests: of the inputs at the positions asked for.
    """

    positions: np.ndarray
    inputs: Any
    labels: Tensor
    digests: dict[int, str] = field(default_factory=dict)


class InputDataset:
    """A data set seen through a preprocessing; a map-style data set of (input, label) that also gives batches.

    Args:
        samples: the data set.
        preprocessing: from raw inputs to input tensors.
        digested: positions whose input digest is wanted.
    """

    def __init__(self, samples: Samples, preprocessing: Preprocessing, digested: Iterable[int] = ()) -> None:
        self.samples, self.preprocessing = samples, preprocessing
        self._digested = frozenset(digested)

    @property
    def sample_ids(self) -> pa.Array:
        """(N,) the id of every position."""
        return self.samples.sample_ids

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.preprocessing.one(self.samples.raw(position)), int(self.samples.labels[position])

    def __getitems__(self, positions: list[int]) -> "Batch | KdpipeError":
        """A whole batch; an error is returned, not raised, so that it crosses the worker boundary unchanged."""
        try:
            return self.batch(np.asarray(positions, np.int64))
        except KdpipeError as error:
            return error

    def batch(self, positions: np.ndarray) -> Batch:
        """The batch at some positions.

        Raises:
            BadSampleError: a sample cannot be read.
            UsageError: the inputs have different shapes.
        """
        items = self.samples.items
        if isinstance(items, ArrayItems):
            inputs = self.preprocessing.batch(items.batch(self.samples.indices[positions].tolist()))
        else:
            inputs = self._stack([self.preprocessing.one(self.samples.raw(int(p))) for p in positions])
        wanted = [(i, int(p)) for i, p in enumerate(positions) if int(p) in self._digested]
        return Batch(
            positions=positions,
            inputs=inputs,
            labels=torch.from_numpy(self.samples.labels[positions]),
            digests={position: input_digest(inputs[i]) for i, position in wanted},
        )

    def _stack(self, inputs: list[Any]) -> Tensor:
        shapes = sorted({tuple(value.shape) for value in inputs})
        if len(shapes) > 1:
            raise UsageError(
                f"The inputs of '{self.samples.spec}' have different shapes ({shapes[0]} and {shapes[1]}). "
                "Give --preprocess image,resize=..,crop=..,channels=3."
            )
        return torch.stack(inputs)


def load_batches(
    dataset: InputDataset, batches: Iterable[list[int]], *, num_workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """The batches of ``dataset`` at the given positions, in that order, read ahead by worker processes.

    Args:
        dataset: what to read.
        batches: positions of every batch.
        num_workers: reading processes; 0 reads in this one.
        pin_memory: page-locked tensors, for asynchronous copies to a GPU.

    Raises:
        BadSampleError, UsageError: as :meth:`InputDataset.batch`.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,  # pyright: ignore[reportArgumentType]  (map-style by protocol)
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        num_workers=num_workers,
        collate_fn=_as_it_is,
        # its own generator: making an iterator would else draw from the global one, which dropout uses
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, KdpipeError):
            raise batch
        yield (
            batch
            if not pin_memory
            else Batch(batch.positions, batch.inputs.pin_memory(), batch.labels.pin_memory(), batch.digests)
        )


def readable_positions(dataset: InputDataset, *, num_workers: int) -> tuple[np.ndarray, list[str]]:
    """Read every sample once: the positions that can be read, and the errors of the others."""
    probe = _Probe(dataset)
    loader: DataLoader[Any] = DataLoader(
        probe,  # pyright: ignore[reportArgumentType]
        batch_size=64,
        num_workers=num_workers,
        collate_fn=_as_it_is,
    )
    errors = [error for batch in loader for error in batch]
    kept = np.array([position for position, error in enumerate(errors) if error is None], np.int64)
    return kept, [error for error in errors if error is not None]


class _Probe:
    """For every position, None where its sample can be read, else what is wrong with it."""

    def __init__(self, dataset: InputDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> str | None:
        try:
            self._dataset[position]
        except BadSampleError as error:
            return str(error)
        return None


def _as_it_is(batch: Any) -> Any:
    return batch
