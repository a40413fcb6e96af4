"""Bayesian-teacher targets: what several views or stochastic passes of the teacher say on average."""

# Shapes: V views, B batch, C classes.

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...stores.errors import UsageError
from .numerics import check_logits, check_scale, compute_dtype, full_precision
from .registry import Loss, LossInputs, register


def log_mean_probabilities(view_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The logarithm of the teacher's mean probabilities over views: ``log (1/V) sum_v softmax(z_v / T)``.

    They are log-probabilities, and so logits too: any loss takes them as ``teacher_logits`` (their softmax is the
    mean). Where a view underflows, the others count: the sum is taken of logarithms.

    Args:
        view_logits: (V, B, C) floating point: views of the input, or passes of a stochastic teacher.
        temperature: T, from 0.01 to 1000; before the mean.

    Returns:
        (B, C), float32 (float64 if ``view_logits`` is).

    Raises:
        UsageError: a wrong shape or dtype, or a temperature out of range.
    """
    check_scale("bayesian", "temperature", temperature)
    if view_logits.ndim != 3 or 0 in view_logits.shape or not view_logits.is_floating_point():
        raise UsageError(
            f"bayesian: view_logits is {view_logits.dtype} of shape {tuple(view_logits.shape)}. Give floating-point "
            "logits, (views, batch, classes)."
        )
    with full_precision(view_logits):
        log_probabilities = (view_logits.detach().to(compute_dtype(view_logits)) / temperature).log_softmax(2)
        return log_probabilities.logsumexp(0) - math.log(len(view_logits))


def bayesian_kd(student_logits: Tensor, view_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Distillation from a Bayesian teacher: ``- (1/B) sum_b sum_c Phi_{b,c} log softmax(z^s_b)_c``.

    Phi is the teacher's mean probabilities (`log_mean_probabilities`) over views or stochastic passes, an
    estimate of P(y | x). Itai Morad, Nir Shlezinger, Yonina C. Eldar, "SGD-Based Knowledge Distillation with
    Bayesian Teachers: Theory and Guidelines", https://arxiv.org/abs/2601.01484, whose objective
    ``CE(softmax(z^s), (1 - l) y + l Phi)`` is this loss with weight l beside cross-entropy with weight 1 - l. To
    take views of the input for passes of a Bayesian teacher, and T = 1, are kdpipe's choices; there is no T^2.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        view_logits: (V, B, C) floating point; no gradient flows into it.
        temperature: T of the teacher's softmax, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes or dtypes that do not match, or a temperature out of range.
    """
    dtype = compute_dtype(student_logits)
    exact = view_logits.to(dtype) if view_logits.is_floating_point() else view_logits  # what is no float is refused
    targets = log_mean_probabilities(exact, temperature=temperature)
    check_logits("bayesian", student_logits, targets)
    with full_precision(student_logits):
        return -(targets.exp() * student_logits.to(dtype).log_softmax(1)).sum(1).mean()


@register
@dataclass(frozen=True, kw_only=True)
class BayesianKD(Loss):
    """`bayesian_kd` as an entry of the registry: over all views in use, whichever of them the student sees."""

    name: ClassVar[str] = "bayesian"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    all_views: ClassVar[bool] = True

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "temperature", self.temperature)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        logits = batch.need("logits", self.name)
        views = logits[None] if batch.view_logits is None else batch.view_logits.transpose(0, 1)
        return bayesian_kd(batch.student_logits, views, temperature=self.temperature)
