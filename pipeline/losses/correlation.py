"""Pearson's correlation and differentiable ranks: what the correlation losses are made of."""

# Shapes: B batch, N scores of a sample.

import torch
from torch import Tensor

EPSILON = 1e-8
# a deviation of so little of the values' size is rounding
_ROUNDING = 1e-6


def pearson(one: Tensor, other: Tensor, *, dim: int, where: Tensor | None = None) -> Tensor:
    """Pearson's correlation coefficient along a dimension; 0, with no gradient, where a side is constant.

    ``sum (a - mean a) (b - mean b) / ( |a - mean a| |b - mean b| + 1e-8 )``

    Args:
        one: floating point.
        other: of the same shape.
        dim: the dimension that is correlated; it is gone in the result.
        where: of the same shape, 1 or 0: what takes part. None for all.
    """
    one, other = (centre(values, dim=dim, where=where) for values in (one, other))
    norms = torch.linalg.vector_norm(one, dim=dim) * torch.linalg.vector_norm(other, dim=dim)
    return (one * other).sum(dim) / (norms + EPSILON)


def centre(values: Tensor, *, dim: int, where: Tensor | None = None) -> Tensor:
    """What differs from the mean along a dimension: 0, with no gradient, where all are equal up to rounding.

    A student whose last layer begins at 0 gives equal logits. What is divided by their deviation has no direction
    there, and a gradient that is rounding times 1e7.

    Args:
        values: floating point.
        dim: the dimension of the mean.
        where: of the same shape, 1 or 0: what takes part; the rest is 0 in the result. None for all.
    """
    if where is None:
        difference = values - values.mean(dim, keepdim=True)
    else:
        values = values * where
        difference = (values - values.sum(dim, keepdim=True) / where.sum(dim, keepdim=True)) * where
    deviation, size = (torch.linalg.vector_norm(x.detach(), dim=dim, keepdim=True) for x in (difference, values))
    return difference * (deviation > _ROUNDING * size)


def soft_ranks(scores: Tensor, strength: float) -> Tensor:
    """Differentiable ranks of each row, from about 1 for the lowest score to about N for the highest.

    The projection of ``scores / strength`` onto the permutahedron, the convex hull of all orders of
    (1, ..., N): exact ranks where neighbours differ by ``strength`` or more; as it grows, the ranks draw
    together to their mean. Mathieu Blondel, Olivier Teboul, Quentin Berthet, Josip Djolonga, "Fast
    Differentiable Sorting and Ranking", https://arxiv.org/abs/2002.08871: with the scores sorted,
    it is their distance from an isotonic regression.

    Memory is O(B N). The gradient is exact: within a pooled block, what differs from the block's mean.

    Args:
        scores: (B, N) float32 or float64.
        strength: of the regularisation, above 0.

    Returns:
        (B, N), in the dtype of ``scores``.
    """
    descending, order = (scores / strength).sort(dim=1, descending=True, stable=True)
    num_scores = scores.shape[1]
    weights = torch.arange(num_scores, 0, -1, device=scores.device, dtype=scores.dtype)
    distance = descending - weights
    ranks = descending - _block_means(distance, _pooled_blocks(distance.detach()))
    return torch.empty_like(ranks).scatter(1, order, ranks)


def _pooled_blocks(values: Tensor) -> Tensor:
    """The blocks of the isotonic regression that descends: (B, N) int64, numbered from 0 along each row.

    Pool adjacent violators, all of them at once, until none is left. A run of ever higher blocks is one block
    of the solution, so that pooling it whole is what pooling it pair by pair comes to.
    """
    blocks = torch.arange(values.shape[1], device=values.device).expand_as(values)
    while True:
        means = _block_means(values, blocks)
        rises = means[:, 1:] > means[:, :-1]
        if not bool(rises.any()):
            return blocks
        begins = torch.zeros_like(blocks)
        begins[:, 1:] = (blocks[:, 1:] != blocks[:, :-1]) & ~rises
        blocks = begins.cumsum(1)


def _block_means(values: Tensor, blocks: Tensor) -> Tensor:
    """The mean of each value's block, (B, N)."""
    sums = torch.zeros_like(values).scatter_add(1, blocks, values)
    sizes = torch.zeros_like(values).scatter_add(1, blocks, torch.ones_like(values))
    return (sums / sizes.clamp_min(1)).gather(1, blocks)
