"""The divergence behind KD and LTKD, compiled for processors, with its gradient in the same passes.

Elsewhere (float64, a GPU, a graph of ``torch.compile``, no numba) the same is computed by the formulas in `kd` and
`ltkd`, in log-space.
"""

# Shapes: B batch, C classes, P groups.

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...stores.errors import UsageError

# it may lag behind a new Python
HAS_NUMBA = find_spec("numba") is not None


def is_compiled_for(student_logits: Tensor) -> bool:
    """Whether there is a kernel for such logits: computed in float32, on a processor, with numba installed."""
    is_here = student_logits.device.type == "cpu" and student_logits.dtype != torch.float64
    return HAS_NUMBA and is_here and not torch.compiler.is_compiling()


def group_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    sizes: list[int],
    log_mass: list[float] | None,
    alpha: float,
    beta: float,
    temperature: float,
) -> Tensor:
    """``T^2 (alpha L_cross + beta L_within)`` as `ltkd` defines them; with one group, alpha 0 and beta 1, `kd`.

    Args:
        student_logits: (B, C) floating point that :func:`is_compiled_for` allows, the classes group by group.
        teacher_logits: (B, C) floating point, likewise; no gradient flows into it.
        sizes: the number of classes of each of the P groups.
        log_mass: P logarithms of the masses that the teacher's are divided by; None: the batch's own.
        alpha: factor of the cross-group loss.
        beta: factor of the within-group loss.
        temperature: T.

    Returns:
        A float32 scalar. There is no second derivative.
    """
    return _Divergence.apply(student_logits, teacher_logits.detach(), sizes, log_mass, alpha, beta, temperature)  # pyright: ignore


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, sizes: list[int], *options: Any) -> Tensor:
        from . import divergence_numba  # takes half a second: only where it is used

        student, teacher = (np.ascontiguousarray(t.float().numpy()) for t in (student_logits, teacher_logits))
        log_mass = None if options[0] is None else np.array(options[0])
        loss, gradient = divergence_numba.group_divergence(student, teacher, sizes, log_mass, *options[1:])
        ctx.dtype = student_logits.dtype
        ctx.save_for_backward(torch.from_numpy(gradient))
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the kept gradient would pass for a constant
            raise UsageError("kd and ltkd in float32 have no second derivative on a processor. Give float64 logits.")
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0]).to(ctx.dtype), *[None] * 6
