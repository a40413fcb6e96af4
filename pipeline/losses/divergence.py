"""The divergence behind KD and LTKD, compiled for processors: one operator with its gradient.

Elsewhere (float64, a GPU, no numba) the same is computed by the formulas in `kd` and `ltkd`, in log-space.
"""

# Shapes: B batch, C classes, P groups.

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from ...stores.errors import UsageError

# it may lag behind a new Python
HAS_NUMBA = find_spec("numba") is not None


def is_compiled_for(student_logits: Tensor) -> bool:
    """Whether there is a kernel for such logits: computed in float32, on a processor, with numba installed."""
    return HAS_NUMBA and student_logits.device.type == "cpu" and student_logits.dtype != torch.float64


@torch.library.custom_op("kdpipe::group_divergence", mutates_args=())
def group_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    sizes: list[int],
    log_mass: list[float] | None,
    alpha: float,
    beta: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """``T^2 (alpha L_cross + beta L_within)`` as `ltkd` defines them; with one group, alpha 0 and beta 1, `kd`.

    Args:
        student_logits: (B, C) floating point, the classes group by group.
        teacher_logits: (B, C) floating point, likewise.
        sizes: the number of classes of each of the P groups.
        log_mass: P logarithms of the masses that the teacher's are divided by; None: the batch's own.
        alpha: factor of the cross-group loss.
        beta: factor of the within-group loss.
        temperature: T.

    Returns:
        The loss, (), and its gradient with respect to ``student_logits``, (B, C), both float32. There is no second
        derivative.
    """
    from . import divergence_numba  # takes half a second: only where it is used

    student, teacher = (np.ascontiguousarray(t.detach().float().numpy()) for t in (student_logits, teacher_logits))
    masses = None if log_mass is None else np.array(log_mass)
    loss, gradient = divergence_numba.group_divergence(student, teacher, sizes, masses, alpha, beta, temperature)
    return torch.tensor(loss, dtype=torch.float32), torch.from_numpy(gradient)


@group_divergence.register_fake
def _(student_logits: Tensor, teacher_logits, sizes, log_mass, alpha, beta, temperature) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return student_logits.new_empty((), dtype=torch.float32), torch.empty_like(student_logits, dtype=torch.float32)


def _keep_gradient(ctx, inputs, output) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(output[1])


def _backward(ctx, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # create_graph=True: the kept gradient would pass for a constant
        raise UsageError("kd and ltkd in float32 have no second derivative on a processor. Give float64 logits.")
    (gradient,) = ctx.saved_tensors
    return (gradient * grad_loss).to(ctx.dtype), *[None] * 6


group_divergence.register_autograd(_backward, setup_context=_keep_gradient)
