"""Training by several processes (torchrun): each takes its share of every batch; the loss is that of the whole batch.

The logits of all shares are gathered before the loss is computed, so that every loss, also one that looks at the batch
as a whole, is what one process would compute; gradients flow into a process's own share, and DDP adds them up.

Shapes: B batch, b a process's share of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...stores.accuracy import AccuracyTally
from ...stores.errors import KdpipeError, UsageError
from ..ranks import Ranks, nth_part

ResultT = TypeVar("ResultT")


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """The connection between the processes that torchrun started: NCCL between GPUs, else gloo; none for one alone."""
    if ranks.world_size == 1:
        yield
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    torch.distributed.destroy_process_group()  # not after an error: others may wait in it for what will not come


def check_batch_size(ranks: Ranks, batch_size: int) -> None:
    """Raise UsageError where a process would have no share of a batch."""
    if batch_size < ranks.world_size:
        raise UsageError(
            f"Batches of {batch_size} cannot be split over {ranks.world_size} processes. "
            "Give a larger --batch-size, or torchrun fewer processes."
        )


def replicate(student: nn.Module, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """A student for training by several processes.

    On GPUs, BatchNorm takes its statistics over the whole batch. On a CPU torch has no such layer: each process takes
    them over its share, and rank 0's running averages are everybody's.

    Returns:
        The network, whose weights are rank 0's now; and what is to be called in its place to train it.
    """
    if device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    return student, nn.parallel.DistributedDataParallel(student)


def gather_rows(share: Tensor, ranks: Ranks, total: int) -> Tensor:
    """The rows of all processes in the order of the batch: (B, ...).

    Args:
        share: (b, ...) the rows of this one, of any dtype; gradients flow into these alone.
        ranks: which one this is.
        total: B.
    """
    parts = [nth_part(range(total), rank, ranks.world_size) for rank in range(ranks.world_size)]
    # as bytes, since not every dtype can be sent; of one length, since gloo sends no others
    rows = share.detach().reshape(len(share), -1).clone(memory_format=torch.contiguous_format)
    own = rows.view(torch.uint8)
    padded = own.new_zeros((max(map(len, parts)), own.shape[1]))
    padded[: len(own)] = own
    received = [torch.empty_like(padded) for _ in parts]
    torch.distributed.all_gather(received, padded)
    received_rows = torch.cat([part[: len(place)] for part, place in zip(received, parts, strict=True)])
    whole = received_rows.view(share.dtype).reshape(total, *share.shape[1:])
    if not share.requires_grad:
        return whole
    place = parts[ranks.rank]
    return torch.cat([whole[: place.start], share, whole[place.stop :]])


def add_up(tally: AccuracyTally, device: torch.device) -> None:
    """Make the counts of every process those of all together."""
    counts = torch.from_numpy(np.stack([tally.totals, tally.correct])).to(device)
    torch.distributed.all_reduce(counts)
    tally.totals[:], tally.correct[:] = counts.cpu().numpy()


def share_buffers(module: nn.Module) -> None:
    """Give every process the buffers of rank 0, such as BatchNorm's running averages."""
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, 0)


def from_first(ranks: Ranks, make: Callable[[], ResultT]) -> ResultT:
    """What rank 0 makes, for every process; an error it raises is raised by all.

    Raises:
        KdpipeError: that of rank 0.
    """
    if ranks.world_size == 1:
        return make()
    outcome: list[object] = [None]
    if ranks.first:
        try:
            outcome = [make()]
        except KdpipeError as error:
            outcome = [error]
    torch.distributed.broadcast_object_list(outcome, 0)
    if isinstance(outcome[0], KdpipeError):
        raise outcome[0]
    return outcome[0]  # pyright: ignore[reportReturnType]
