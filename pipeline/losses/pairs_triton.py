"""GRKD's pairs on a GPU: a Triton kernel that sees every pair from both of its sides and needs no atomic additions."""

# Shapes: B batch, C classes.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64


def pair_losses(scores: Tensor, num_above: int, ties: Tensor | None) -> tuple[Tensor, Tensor]:
    """As :func:`.pairs.pair_losses`, the gradient always with it: (B,) and (B, C). The same every time."""
    batch, num_classes = scores.shape
    scores = scores.contiguous()
    blocks = triton.cdiv(num_classes, _BLOCK)
    losses, gradient = scores.new_empty(batch, blocks), torch.empty_like(scores)
    kept_ties = scores if ties is None else ties.to(torch.int32).contiguous()  # not read where there are none
    constants: dict[str, Any] = {"HAS_TIES": ties is not None, "BLOCK": _BLOCK}
    _kernel[(batch, blocks)](scores, kept_ties, losses, gradient, num_classes, num_above, **constants)
    return losses.sum(1), gradient


@triton.jit
def _kernel(scores, ties, losses, gradient, num_classes, num_above, HAS_TIES: tl.constexpr, BLOCK: tl.constexpr):
    """One program: a block of places of one row against all places of that row, block by block.

    A pair's loss is added where its better place is; its gradient is added at both, each by its own program.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    mine = block * BLOCK + tl.arange(0, BLOCK)
    is_mine = mine < num_classes
    start_of_row = row.to(tl.int64) * num_classes
    my_score = tl.load(scores + start_of_row + mine, mask=is_mine, other=0.0)
    my_ties = tl.load(ties + start_of_row + mine, mask=is_mine, other=0) if HAS_TIES else mine
    loss = tl.zeros([BLOCK], dtype=my_score.dtype)
    slope = tl.zeros([BLOCK], dtype=my_score.dtype)
    for first in range(0, num_classes, BLOCK):
        others = first + tl.arange(0, BLOCK)
        is_other = others < num_classes
        score = tl.load(scores + start_of_row + others, mask=is_other, other=0.0)
        distance = others[None, :] - mine[:, None]
        both = is_mine[:, None] & is_other[None, :]
        better = both & (distance > 0) & (mine < num_above)[:, None]  # mine is the better one
        worse = both & (distance < 0) & (others < num_above)[None, :]
        if HAS_TIES:
            their_ties = tl.load(ties + start_of_row + others, mask=is_other, other=0)
            better = better & (distance > their_ties[None, :])
            worse = worse & (-distance > my_ties[:, None])
        x = score[None, :] - my_score[:, None]
        e = tl.exp(-tl.abs(x))
        larger = 1.0 / (1.0 + e)  # sigma(|x|)
        smaller = e * larger
        loss += tl.sum(tl.where(better, tl.maximum(x, 0.0) + tl.log(1.0 + e), 0.0), 1)
        slope -= tl.sum(tl.where(better, tl.where(x >= 0, larger, smaller), 0.0), 1)  # sigma(x)
        slope += tl.sum(tl.where(worse, tl.where(x >= 0, smaller, larger), 0.0), 1)  # sigma(-x)
    tl.store(gradient + start_of_row + mine, slope, mask=is_mine)
    tl.store(losses + row * tl.num_programs(1) + block, tl.sum(tl.where(is_mine, loss, 0.0), 0))
