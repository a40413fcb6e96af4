"""Batches of network inputs: read, preprocessed and digested, in this process or in loader workers.

Shapes: B batch, H and W image size.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..stores import JoinedDataset, Store
from ..stores.errors import BadSampleError, KdpipeError, RefusedError, UsageError
from .augment import Augmentation, AugmentedView
from .augment.geometry import Geometry
from .data import Samples
from .data.samples import ArrayItems
from .tensors import Inputs, each, stack
from .views import Preprocessing, input_digest


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        positions: (B,) int64, positions in the data set.
        inputs: (B, channels, H, W), or whatever tensors the data set gives, stacked, by name where they have names.
        labels: (B,) int64.
        digests: of the inputs at the positions asked for.
        view: which view the inputs are.
        drawn: of an augmented view, how it was drawn: (B, width) by the names of the store's arrays.
        partner_labels: (B,) int64, of the samples that the inputs are mixed with; None where nothing is mixed.
        label_shares: (B,) float32, the share of the sample's own input and label; the partner has the rest.
    """

    positions: np.ndarray
    inputs: Any
    labels: Tensor
    digests: dict[int, str] = field(default_factory=dict)
    view: int = 0
    drawn: dict[str, np.ndarray] = field(default_factory=dict)
    partner_labels: Tensor | None = None
    label_shares: Tensor | None = None

    def pinned(self) -> "Batch":
        """The same with tensors in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """The same with tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = ((name, getattr(self, name)) for name in ("inputs", "labels", "partner_labels", "label_shares"))
        return replace(self, **{name: each(tensor, change) for name, tensor in tensors if tensor is not None})


class InputDataset:
    """A data set seen through a preprocessing; a map-style data set of (input, label) that also gives batches.

    Args:
        samples: the data set.
        preprocessing: from raw inputs to input tensors.
        digested: positions whose input digest is wanted.
        augmentation: how views of the inputs are drawn; None gives the inputs as they come.
        view: which view.
        size: side of augmented inputs in pixels; by default the augmentation's.
        position_of_row: (N,) the position of every store row, among which mixed inputs have their partners; by default
            positions are rows.
        recorded: gives the crops and flips of some positions in a view, where they are not drawn.
    """

    def __init__(
        self,
        samples: Samples,
        preprocessing: Preprocessing,
        digested: Iterable[int] = (),
        *,
        augmentation: Augmentation | None = None,
        view: int = 0,
        size: int | None = None,
        position_of_row: np.ndarray | None = None,
        recorded: "RecordedGeometry | None" = None,
    ) -> None:
        self.samples, self.preprocessing, self.view = samples, preprocessing, view
        self._digested = frozenset(digested)
        self.augmentation, self._size = augmentation, size
        self._position_of_row, self._recorded = position_of_row, recorded
        self._augmented = augmentation and AugmentedView(
            augmentation=augmentation, preprocessing=preprocessing, view=view, size=size
        )

    @property
    def mixes(self) -> bool:
        """Whether inputs are mixed of two samples each."""
        return self.augmentation is not None and self.augmentation.mixes

    def at_size(self, size: int) -> "InputDataset":
        """The same data set with inputs of another size: the same crops, scaled."""
        return InputDataset(
            self.samples, self.preprocessing.at_size(size), self._digested, augmentation=self.augmentation,
            view=self.view, size=size, position_of_row=self._position_of_row, recorded=self._recorded,
        )  # fmt: skip

    def at_view(self, view: int, digested: Iterable[int] = ()) -> "InputDataset":
        """The same data set in another view."""
        return InputDataset(
            self.samples, self.preprocessing, digested, augmentation=self.augmentation, view=view,
            size=self._size, position_of_row=self._position_of_row, recorded=self._recorded,
        )  # fmt: skip

    @property
    def sample_ids(self) -> pa.Array:
        """(N,) the id of every position."""
        return self.samples.sample_ids

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        label = int(self.samples.labels[position])
        if self._augmented is not None:
            return _row(self.batch(np.array([position])).inputs, 0), label
        return self.preprocessing.one(self.samples.raw(position)), label

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
            UsageError: the inputs have different shapes, or cannot be augmented.
        """
        raws, labels = self._raws(positions), torch.from_numpy(self.samples.labels[positions])
        if self._augmented is not None:
            batch = self._augment(self._augmented, raws, positions, labels)
        elif isinstance(raws, Tensor):
            batch = Batch(positions, self.preprocessing.batch(raws), labels)
        else:
            batch = Batch(positions, self._stack([self.preprocessing.one(raw) for raw in raws]), labels)
        wanted = [(i, int(p)) for i, p in enumerate(positions) if int(p) in self._digested]
        return replace(batch, digests={position: input_digest(_row(batch.inputs, i)) for i, position in wanted})

    def _augment(self, view: AugmentedView, raws: "list[Any] | Tensor", positions: np.ndarray, labels: Tensor) -> Batch:
        ids = self._ids(positions)
        geometry = self._geometry(view, raws, positions)
        inputs = view.batch(raws, ids, geometry)
        drawn = {"boxes": geometry.boxes, "flips": geometry.flips[:, None]}
        if not view.augmentation.mixes:
            return Batch(positions, inputs, labels, view=view.view, drawn=drawn)
        rows_of = self._position_of_row
        mixing = view.mixing(ids, len(self) if rows_of is None else len(rows_of))
        partners = mixing.rows if rows_of is None else rows_of[mixing.rows]
        others = self._raws(partners)
        others = view.batch(others, self._ids(partners), self._geometry(view, others, partners))
        inputs = view.mixed(inputs, others, mixing)
        return Batch(
            positions, inputs, labels, view=view.view, drawn={**drawn, **mixing.arrays()},
            partner_labels=torch.from_numpy(self.samples.labels[partners]),
            label_shares=torch.from_numpy(mixing.ratios),
        )  # fmt: skip

    def _geometry(self, view: AugmentedView, raws: "list[Any] | Tensor", positions: np.ndarray) -> Geometry:
        if self._recorded is not None:
            return self._recorded(positions, view.view)
        return view.geometry(raws, self._ids(positions))

    def _ids(self, positions: np.ndarray) -> list[str]:
        return self.sample_ids.take(pa.array(positions)).to_pylist()

    def _raws(self, positions: np.ndarray) -> "list[Any] | Tensor":
        items = self.samples.items
        if isinstance(items, ArrayItems):
            return items.batch(self.samples.indices[positions].tolist())
        return [self.samples.raw(int(position)) for position in positions]

    def _stack(self, inputs: list[Inputs]) -> Inputs:
        try:
            return stack(inputs)
        except ValueError as error:
            are_images = isinstance(inputs[0], Tensor) and inputs[0].ndim == 3
            cure = "Give --preprocess image,resize=..,crop=..,channels=3" if are_images else "Pad them in the data set"
            raise UsageError(f"The inputs of '{self.samples.spec}' have different shapes ({error}). {cure}.") from None


@dataclass(frozen=True)
class RecordedGeometry:
    """Crops and flips that a store has of its views.

    Attributes:
        store: the store.
        row_of: (N,) the store's row of every position of a data set.
    """

    store: Store
    row_of: np.ndarray

    def __call__(self, positions: np.ndarray, view: int) -> Geometry:
        """Those of some positions that the store has."""
        read = self.store.read(self.row_of[positions], arrays=("boxes", "flips"), view=view)
        return Geometry(boxes=read["boxes"], flips=read["flips"][:, 0])


def store_inputs(
    store: Store,
    samples: Samples,
    joined: JoinedDataset,
    preprocessing: Preprocessing,
    *,
    mixup: float | None = None,
) -> InputDataset:
    """A data set as a store's teacher saw it: with the augmentation of its views, if it has any.

    Args:
        store: the store.
        samples: the data set.
        joined: the samples both have.
        preprocessing: from raw inputs to input tensors.
        mixup: alpha of a mixing that the teacher has not seen; its store has augmented views.

    Raises:
        RefusedError: views are mixed, and the data set lacks samples that they are mixed of.
    """
    augmentation, position_of_row = Augmentation.of(store.manifest), None
    if augmentation is not None and mixup is not None:
        augmentation = replace(augmentation, mixup=mixup)
    if augmentation is not None and augmentation.mixes:
        if len(joined) < len(store):
            raise RefusedError(
                f"The inputs are mixed of two samples of {store} each, and {len(store) - len(joined):,} of its "
                f"{len(store):,} samples are not in '{samples.spec}'. Give all the data that it was made from."
            )
        position_of_row = np.empty(len(store), np.int64)
        position_of_row[joined.rows] = joined.positions
    recorded = None
    if augmentation is not None and augmentation.recorded:
        row_of = np.full(len(samples), -1, np.int64)
        row_of[joined.positions] = joined.rows
        recorded = RecordedGeometry(store, row_of)
    return InputDataset(
        samples, preprocessing, augmentation=augmentation, position_of_row=position_of_row, recorded=recorded
    )


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
        yield batch.pinned() if pin_memory else batch


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


def _row(inputs: Inputs, index: int) -> Inputs:
    """One sample of a batch."""
    return each(inputs, lambda tensor: tensor[index])


def _as_it_is(batch: Any) -> Any:
    return batch
