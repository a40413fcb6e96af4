"""GRKD's pairs on a GPU: a Triton kernel that sees every pair from both of its sides and needs no atomic additions."""

# Shapes: B batch, C classes.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# A program's places, and how many it compares them with at a time.
_MINE, _OTHERS = 64, 32
# Comparisons, each a factor of at least 1/2, after which a logarithm is taken: 2^-100 is a normal float32.
_FACTORS = 100
# exp(-80) is well within float32, and so are its reciprocal and sums of that.
_WIDEST = 80.0


def pair_losses(scores: Tensor, num_above: int, ties: Tensor | None) -> tuple[Tensor, Tensor]:
    """As :func:`.pairs.pair_losses`, the gradient always with it: (B,) and (B, C). The same every time."""
    batch, num_classes = scores.shape
    scores = scores.contiguous()
    best = scores.amax(1, keepdim=True)
    u = (scores.double() - best).exp().to(scores.dtype)  # from rounded differences, exp would lose digits
    narrow = (best - scores.amin(1, keepdim=True) <= _WIDEST).to(torch.int32)  # NaN and infinity compare false
    kept_ties = narrow if ties is None else ties.to(torch.int32).contiguous()  # not read where there are none
    blocks = triton.cdiv(num_classes, _MINE)
    losses, gradient = scores.new_empty(batch, blocks), torch.empty_like(scores)
    constants: dict[str, Any] = {"HAS_TIES": ties is not None, "MINE": _MINE, "OTHERS": _OTHERS, "FACTORS": _FACTORS}
    _kernel[(batch, blocks)](scores, u, narrow, kept_ties, losses, gradient, num_classes, num_above, **constants)
    return losses.sum(1), gradient


@triton.jit
def _sigma(u_low, u_high, x, narrow):
    """``sigma(x)`` and ``sigma(|x|)`` for ``x = log(u_high / u_low)``: from u, or where a row is too wide, from x."""
    if narrow:
        inverse = 1.0 / (u_low + u_high)
        value = u_high * inverse
        larger = tl.maximum(u_low, u_high) * inverse
    else:
        e = tl.exp(-tl.abs(x))
        larger = 1.0 / (1.0 + e)
        value = tl.where(x >= 0, larger, e * larger)
    return value, larger


@triton.jit
def _kernel(
    scores, u, narrow, ties, losses, gradient, num_classes, num_above,
    HAS_TIES: tl.constexpr, MINE: tl.constexpr, OTHERS: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """One program: a block of places of one row, first against the better places, then against the worse ones.

    A pair's loss is added where its better place is; its gradient is added at both, each by its own program.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    start = row.to(tl.int64) * num_classes
    is_narrow = tl.load(narrow + row) != 0
    mine = block * MINE + tl.arange(0, MINE)[:, None]
    is_mine = mine < num_classes
    my_u = tl.load(u + start + mine, mask=is_mine, other=1.0)
    my_score = tl.load(scores + start + mine, mask=is_mine, other=0.0)
    first_tied = mine - tl.load(ties + start + mine, mask=is_mine, other=0) if HAS_TIES else mine
    end_of_better = tl.minimum(first_tied, num_above)

    push = tl.zeros([MINE, OTHERS], dtype=my_u.dtype)
    for first in range(0, tl.minimum(block * MINE + MINE, num_above), OTHERS):
        other = first + tl.arange(0, OTHERS)[None, :]
        their_u = tl.load(u + start + other, mask=other < num_classes, other=1.0)
        their_score = tl.load(scores + start + other, mask=other < num_classes, other=0.0)
        weight, _ = _sigma(their_u, my_u, my_score - their_score, is_narrow)
        push += tl.where(other < end_of_better, weight, 0.0)

    loss = tl.zeros([MINE, OTHERS], dtype=my_u.dtype)
    product = tl.full([MINE, OTHERS], 1.0, dtype=my_u.dtype)
    for first in range(block * MINE, tl.where(block * MINE < num_above, num_classes, 0), OTHERS):
        other = first + tl.arange(0, OTHERS)[None, :]
        is_other = other < num_classes
        their_u = tl.load(u + start + other, mask=is_other, other=1.0)
        their_score = tl.load(scores + start + other, mask=is_other, other=0.0)
        before_ties = other - tl.load(ties + start + other, mask=is_other, other=0) if HAS_TIES else other
        better = mine < tl.where(is_other, tl.minimum(before_ties, num_above), 0)
        x = their_score - my_score
        weight, larger = _sigma(my_u, their_u, x, is_narrow)
        push -= tl.where(better, weight, 0.0)
        loss += tl.where(better, tl.maximum(x, 0.0), 0.0)
        product *= tl.where(better, larger, 1.0)
        if first // OTHERS % FACTORS == 0:
            loss -= tl.log(product)
            product = tl.full([MINE, OTHERS], 1.0, dtype=my_u.dtype)
    loss = tl.where(is_mine, loss - tl.log(product), 0.0)

    tl.store(gradient + start + mine, tl.sum(push, 1, keep_dims=True), mask=is_mine)
    tl.store(losses + row * tl.num_programs(1) + block, tl.sum(tl.sum(loss, 1), 0))
