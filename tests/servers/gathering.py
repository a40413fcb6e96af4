"""What every rank does to test that shares become the whole batch again; raises where they do not."""

import torch
from kdpipe.pipeline.ranks import Ranks
from kdpipe.pipeline.training.parallel import gather_rows, process_group

_SHAPES = ((), (5,), (3, 2))
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint16, torch.uint8, torch.bool)


def check_gathering() -> None:
    """Shares of all kinds of tensors, and the gradient of a loss of the whole batch."""
    ranks = Ranks.from_environment()
    with process_group(ranks, torch.device("cpu")):
        for total in (ranks.world_size, ranks.world_size + 1, 17):
            for dtype in _DTYPES:
                for shape in _SHAPES:
                    _check_rows(ranks, torch.arange(total * 100).reshape(total, -1)[:, : _count(shape)], shape, dtype)
            _check_gradient(ranks, total)


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _check_rows(ranks: Ranks, values: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    whole = values.reshape(len(values), *shape).to(dtype)
    gathered = gather_rows(ranks.share(whole), ranks, len(whole))
    if gathered.dtype != dtype or not torch.equal(gathered, whole):
        raise ValueError(f"{gathered} is not {whole}")


def _check_gradient(ranks: Ranks, total: int) -> None:
    """Of a loss in which every row meets every other: that of the whole, for the rows of this rank."""
    whole = torch.arange(3.0 * total).reshape(total, 3).sin().requires_grad_()
    (whole @ whole.T).logsumexp(1).sum().backward()
    share = ranks.share(whole.detach()).clone().requires_grad_()
    gathered = gather_rows(share, ranks, total)
    (gathered @ gathered.T).logsumexp(1).sum().backward()
    if whole.grad is None or share.grad is None or not torch.allclose(share.grad, ranks.share(whole.grad)):
        raise ValueError(f"{share.grad} is not the share of {whole.grad}")
