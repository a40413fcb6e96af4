"""GRKD's pairs in plain torch: for every device, and for scores whose spread the compiled kernel cannot hold."""

# Shapes: B batch, C classes, K ranks of a block, N classes below the block's first.
# Inside, the batch is the last dimension: (C, B), (K, N, B). Every slice of classes is then contiguous.

from collections.abc import Callable

import torch
from torch import Tensor

# Pairs worked on at a time, and so the size of the two scratch buffers: small enough for a processor's
# cache, large enough to keep an accelerator busy. Never less than one rank against all classes.
BLOCK_CPU = 2**18
BLOCK_ACCELERATOR = 2**24

# Factors, each at least 1/2, multiplied before a logarithm is taken: 2**-100 is a normal float32.
MAX_FACTORS = 100


def pair_losses(
    scores: Tensor, num_above: int, ties: Tensor | None = None, *, with_gradient: bool = True
) -> tuple[Tensor, Tensor | None]:
    """``sum softplus(-(a_i - a_j))`` over the places i < j of each sample, i among the first ``num_above``.

    Per pair, ``softplus(x) = max(x, 0) - log sigma(|x|)``; the logarithms of many pairs are taken at once, as
    one of their product.

    Args:
        scores: (B, C) float32 or float64: the student's, sorted, divided by tau.
        num_above: how many leading places may be the better one of a pair: all but the unranked.
        ties: (B, C) int64: for each place, how many places before it are its equals; a place gives no pair
            with those. None: all differ.
        with_gradient: whether the gradient is wanted.

    Returns:
        The sum of each sample, (B,), and its gradient with respect to ``scores``, (B, C), or None.
    """
    num_samples, num_classes = scores.shape
    scores = scores.t().contiguous()
    ties = None if ties is None else ties.t().contiguous()
    longest_tie = 0 if ties is None else int(ties.max())

    block = max(BLOCK_CPU if scores.device.type == "cpu" else BLOCK_ACCELERATOR, scores.numel())
    scratch = scores.new_empty(2, min(block, scores.numel() * num_above))
    losses = torch.zeros_like(scores)
    factors = torch.ones_like(scores)
    gradient = torch.zeros_like(scores) if with_gradient else None

    num_factors = 0
    first, end = 0, min(num_above, num_classes - 1)
    while first < end:
        below = slice(first + 1, num_classes)
        num_below = num_classes - first - 1
        num_ranks = max(1, min(block // (num_below * num_samples), end - first, MAX_FACTORS))
        if num_factors + num_ranks > MAX_FACTORS:
            losses -= factors.log_()
            factors.fill_(1)
            num_factors = 0
        num_factors += num_ranks

        shape = (num_ranks, num_below, num_samples)
        x, y = (buffer[: num_ranks * num_below * num_samples].view(shape) for buffer in scratch)
        torch.sub(scores[below], scores[first : first + num_ranks, None], out=x)
        _drop_pairs(x, None if ties is None else ties[below], longest_tie)

        losses[below].add_(_over_ranks(torch.sum, torch.clamp_min(x, 0, out=y)))
        factors[below].mul_(_over_ranks(torch.prod, torch.abs(x, out=y).sigmoid_()))
        if gradient is not None:
            x.sigmoid_()
            gradient[first : first + num_ranks].sub_(x.sum(1))
            gradient[below].add_(_over_ranks(torch.sum, x))
        first += num_ranks

    losses -= factors.log_()
    return losses.sum(0), None if gradient is None else gradient.t()


def _over_ranks(reduce: Callable[..., Tensor], block: Tensor) -> Tensor:
    """Reduce (K, N, B) to (N, B), without a copy where K is 1."""
    return block[0] if len(block) == 1 else reduce(block, dim=0)


def _drop_pairs(x: Tensor, ties: Tensor | None, longest_tie: int) -> None:
    """Set to -inf, which adds nothing, what is no pair of x (K, N, B): places not below i, or tied with it."""
    num_ranks, num_below, _ = x.shape
    span = min(num_ranks - 1 + longest_tie, num_below)
    if span == 0:
        return
    distance = torch.arange(1, span + 1, device=x.device) - torch.arange(num_ranks, device=x.device)[:, None]
    dropped = distance[..., None] <= (0 if ties is None else ties[:span])
    x[:, :span].masked_fill_(dropped, -torch.inf)
