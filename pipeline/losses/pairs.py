"""The sum over pairs behind GRKD: one operator that visits every pair of classes, on the fastest way there is.

On a processor a kernel compiled by numba, on a GPU one compiled by Triton, anywhere else plain torch; all give the
same numbers within float32 round-off. As an operator of torch's it is left alone by ``torch.compile`` and autocast.
"""

# Shapes: B batch, C classes.

import functools

import torch
from torch import Tensor

from ...stores.errors import UsageError
from . import pairs_torch


@torch.library.custom_op("kdpipe::pair_losses", mutates_args=())
def pair_losses(
    scores: Tensor,
    num_above: int,
    ties: Tensor | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """``sum softplus(-(a_i - a_j))`` over the places i < j of each sample, i among the first ``num_above``.

    Args:
        scores: (B, C) float32 or float64: the student's, sorted, divided by tau.
        num_above: how many leading places may be the better one of a pair: all but the unranked.
        ties: (B, C) int64: for each place, how many places before it are its equals; a place gives no pair
            with those. None: all differ.
        with_gradient: whether the gradient is wanted.

    Returns:
        The sum of each sample, (B,), and its gradient with respect to ``scores``, (B, C), or (0,) if not wanted.
        There is no second derivative.
    """
    if scores.device.type == "cpu" and (compiled := _numba()) and compiled.can_take(scores):
        losses, gradient = compiled.pair_losses(scores, num_above, ties)
    elif scores.device.type == "cuda" and (triton := _triton()):
        losses, gradient = triton.pair_losses(scores, num_above, ties)
    else:
        losses, gradient = pairs_torch.pair_losses(scores, num_above, ties, with_gradient=with_gradient)
    return losses, gradient if with_gradient and gradient is not None else scores.new_empty(0)


@pair_losses.register_fake
def _(scores: Tensor, num_above: int, ties: Tensor | None, with_gradient: bool) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return scores.new_empty(len(scores)), torch.empty_like(scores) if with_gradient else scores.new_empty(0)


def _keep_gradient(ctx, inputs, output) -> None:  # noqa: ARG001
    ctx.save_for_backward(output[1])


def _backward(ctx, grad_losses: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    if torch.is_grad_enabled():  # create_graph=True: the kept gradient would pass for a constant
        raise UsageError("grkd has no second derivative. Differentiate without create_graph=True.")
    (gradient,) = ctx.saved_tensors
    return gradient * grad_losses.unsqueeze(1), None, None, None


pair_losses.register_autograd(_backward, setup_context=_keep_gradient)


@functools.cache
def _numba():
    """The kernel for processors, or None where numba is not installed: it may lag behind a new Python."""
    try:
        from . import pairs_numba  # takes half a second: only where GRKD is used
    except ImportError:
        return None
    return pairs_numba


@functools.cache
def _triton():
    """The kernel for GPUs, or None where Triton is not installed: torch brings it on Linux alone."""
    try:
        from . import pairs_triton
    except ImportError:
        return None
    return pairs_triton
