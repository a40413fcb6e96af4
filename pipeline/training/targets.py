"""What the teacher says of a batch, from the store: kept on the GPU, kept in memory, or mapped from its files.

Shapes: B batch, C classes, R ranks, G groups, N rows, M rows in use.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...stores import BatchSampler, JoinedDataset, MissingArrayError, Store, UsageError
from ...stores.codecs import TopK
from ...stores.reader import physical_memory
from ..inputs import Batch
from ..losses import LOSSES, Loss, Objective

Targets = Callable[[Batch], dict[str, Tensor]]
Placement = Literal["auto", "gpu", "ram", "mmap"]
PLACEMENTS = ("auto", "gpu", "ram", "mmap")

_STREAMED_ROWS = 8192
# batches whose copies to a GPU may be on their way while the next is gathered
_PINNED_BUFFERS = 3
# of the free memory of a GPU that the store may take: the student needs the rest
_GPU_SHARE = 0.25


def no_targets(_: Batch) -> dict[str, Tensor]:
    """The targets of a run without a teacher: none."""
    return {}


def arrays_for(store: Store, objective: Objective) -> list[str]:
    """The arrays of the store that the losses read.

    Where the store keeps the teacher's best classes only, losses that can take these read them, and the others are
    refused: what is not stored is never made up.

    Raises:
        MissingArrayError: it lacks an array that a loss needs.
        UsageError: it has logsumexps, but not at the temperature of a loss.
    """
    codec, arrays = store.manifest.logit_codec, set()
    for loss in objective.losses:
        for name in loss.needs:
            if store.manifest.components(name):
                arrays.add(name)
            elif name == "logits" and isinstance(codec, TopK) and store.manifest.logit_arrays:
                arrays.update(_top_arrays(store, codec, loss))
            else:
                raise MissingArrayError(
                    f"The loss '{loss.name}' needs '{name}', which {store} does not carry (only "
                    f"{store.manifest.array_names}). Choose another loss, or extract again with --write logits,ranks."
                )
    return sorted(arrays)


def _top_arrays(store: Store, codec: TopK, loss: Loss) -> set[str]:
    if loss.top_temperature is None:
        takers = ", ".join(known.name for known in LOSSES.values() if known.top_temperature is not Loss.top_temperature)
        raise MissingArrayError(
            f"The loss '{loss.name}' needs all logits; {store} keeps the best {codec.k} of "
            f"{store.manifest.num_classes} only. Choose a loss that can take these ({takers}) or one of ranks, or "
            "extract again with --codec float16."
        )
    try:
        codec.temperature_index(loss.top_temperature)
    except UsageError as error:
        raise UsageError(f"The loss '{loss.name}' cannot be taken from {store}: {error}") from None
    return {array.name for array in store.manifest.logit_arrays}


def pick_placement(
    placement: Placement, store: Store, arrays: Sequence[str], num_rows: int, device: torch.device
) -> Placement:
    """Where the arrays are kept: ``auto`` is the GPU where they take a quarter of its free memory at most, else mapped.

    A remote store's are mapped: the student need not wait until all are here.

    Mapped files are read at the speed of memory once they are in the system's cache, which all runs on a machine share;
    ``ram`` keeps a copy of one's own, which nothing can push out. Compressed files cannot be mapped: ``auto`` keeps
    what is in them where it fits into half of the memory, so that it is decompressed once.

    Raises:
        UsageError: ``gpu`` without a GPU.
    """
    if placement == "gpu" and device.type != "cuda":
        raise UsageError(f"--placement gpu needs a GPU, the student trains on '{device}'. Use auto, ram or mmap.")
    if placement != "auto":
        return placement
    if store.remote:
        return "mmap"
    needed = num_rows * sum(store.require(name).row_bytes for name in arrays)
    if device.type == "cuda" and needed <= _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "gpu"
    return "ram" if store.layout.decodes and 2 * needed <= physical_memory() else "mmap"


class ResidentTargets:
    """The arrays of all rows in use, kept in memory: a batch is one gather, on the device they are kept on.

    One view is kept: a batch of another one replaces it.

    Args:
        store: the store.
        joined: which data set position is which row.
        arrays: ``logits`` (B, C), ``ranks`` (B, R).
        num_positions: size of the data set.
        kept_on: where they are kept.
        device: where batches are wanted.
    """

    def __init__(
        self,
        store: Store,
        joined: JoinedDataset,
        arrays: Sequence[str],
        num_positions: int,
        *,
        kept_on: torch.device,
        device: torch.device,
    ) -> None:
        self._store, self._rows = store, joined.rows
        infos = [store.require(name) for name in arrays]
        self._kept = {
            info.name: torch.empty((len(joined), info.width), dtype=getattr(torch, info.dtype), device=kept_on)
            for info in infos
        }
        self._load(view=0)
        self._place_of = torch.full((num_positions,), -1, dtype=torch.int64)
        self._place_of[torch.from_numpy(joined.positions)] = torch.arange(len(joined))
        self._kept_on, self._device = kept_on, device

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The arrays for a batch, in the stored dtypes, on the device."""
        if batch.view != self._view:
            self._load(batch.view)
        places = self._place_of[torch.from_numpy(batch.positions)].to(self._kept_on, non_blocking=True)
        return {name: _take(kept, places).to(self._device) for name, kept in self._kept.items()}

    def _load(self, view: int) -> None:
        """A view's rows, copied piece by piece, so that they are in memory once."""
        for name, kept in self._kept.items():
            for start in range(0, len(kept), _STREAMED_ROWS):
                part = self._rows[start : start + _STREAMED_ROWS]
                read = self._store.read(part, arrays=(name,), view=view)[name]
                kept[start : start + len(part)] = torch.from_numpy(read)
        self._view = view
        self._store.release(view)


class MappedTargets:
    """The arrays gathered from the mapped store, batch by batch, into kept buffers (pinned where a GPU copies them).

    Args:
        store: the store.
        joined: which data set position is which row.
        arrays: ``logits`` (B, C), ``ranks`` (B, R).
        num_positions: size of the data set.
        device: where batches are wanted.
    """

    def __init__(
        self, store: Store, joined: JoinedDataset, arrays: Sequence[str], num_positions: int, *, device: torch.device
    ) -> None:
        self._store, self._arrays, self._device = store, arrays, device
        self._row_of = np.full(num_positions, -1, np.int64)
        self._row_of[joined.positions] = joined.rows
        count = _PINNED_BUFFERS if device.type == "cuda" else 1
        self._buffers = [_Buffer(store, arrays, device) for _ in range(count)]
        self._next = self._view = 0

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The arrays for a batch, in the stored dtypes, on the device; a later batch may overwrite them."""
        if batch.view != self._view:
            self._store.release(self._view)
            self._view = batch.view
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        into = buffer.rows(len(batch.positions))
        out = {name: tensor.numpy() for name, tensor in into.items()}
        self._store.read(self._row_of[batch.positions], arrays=self._arrays, view=batch.view, out=out)
        return buffer.send(into)

    def ahead(self, batches: Iterable[Batch], sampler: BatchSampler, first_batch: int, view: int) -> Iterator[Batch]:
        """Give the batches of a view, while a thread brings the chunks they will need into memory."""
        return self._store.read_ahead(batches, sampler, arrays=self._arrays, view=view, first_batch=first_batch)


def with_mixed_labels(targets: Targets, device: torch.device) -> Targets:
    """The targets of mixed inputs: the same, the labels of both samples, ``mixed_labels`` (B, 2), and their shares."""

    def of(batch: Batch) -> dict[str, Tensor]:
        if batch.partner_labels is None or batch.label_shares is None:  # a batch of inputs that are not mixed
            return targets(batch)
        mixed = {
            "mixed_labels": torch.stack([batch.labels, batch.partner_labels], dim=1),
            "label_shares": batch.label_shares,
        }
        return {**targets(batch), **{name: t.to(device, non_blocking=True) for name, t in mixed.items()}}

    return of


def with_view_logits(
    targets: Targets, store: Store, joined: JoinedDataset, num_positions: int, *, num_views: int, device: torch.device
) -> Targets:
    """The targets, and the teacher's logits of every view in use: ``view_logits`` (B, V, C)."""
    row_of = np.full(num_positions, -1, np.int64)
    row_of[joined.positions] = joined.rows

    def of(batch: Batch) -> dict[str, Tensor]:
        rows = row_of[batch.positions]
        views = np.stack([store.read(rows, view=view)["logits"] for view in range(num_views)], axis=1)
        return {**targets(batch), "view_logits": torch.from_numpy(views).to(device)}

    return of


def with_partner_logits(targets: Targets, store: Store, device: torch.device) -> Targets:
    """The targets, and the teacher's logits of the samples that inputs are mixed with: ``partner_logits`` (B, C)."""

    def of(batch: Batch) -> dict[str, Tensor]:
        partners = store.read(batch.drawn["mix_rows"][:, 0], view=batch.view)["logits"]
        return {**targets(batch), "partner_logits": torch.from_numpy(partners).to(device)}

    return of


class _Buffer:
    """Kept memory for the arrays of one batch, not filled again before its copy to the device is done."""

    def __init__(self, store: Store, arrays: Sequence[str], device: torch.device) -> None:
        infos = [store.require(name) for name in arrays]
        self._tensors = {info.name: torch.empty((0, info.width), dtype=getattr(torch, info.dtype)) for info in infos}
        self._device = device
        self._copied = torch.cuda.Event() if device.type == "cuda" else None

    def rows(self, num_rows: int) -> dict[str, Tensor]:
        if self._copied is not None:
            self._copied.synchronize()
        for name, tensor in self._tensors.items():
            if len(tensor) < num_rows:
                self._tensors[name] = torch.empty(
                    (num_rows, tensor.shape[1]), dtype=tensor.dtype, pin_memory=self._copied is not None
                )
        return {name: tensor[:num_rows] for name, tensor in self._tensors.items()}

    def send(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        sent = {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()}
        if self._copied is not None:
            self._copied.record()
        return sent


def _take(kept: Tensor, places: Tensor) -> Tensor:
    """Rows of a tensor; torch gathers 16-bit integers only as signed ones."""
    if kept.dtype == torch.uint16:
        return kept.view(torch.int16).index_select(0, places).view(torch.uint16)
    return kept.index_select(0, places)
