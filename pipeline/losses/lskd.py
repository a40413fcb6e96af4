"""Logit standardisation: both nets' logits are brought to mean 0 and deviation 1 before they are compared."""

# Shapes: B batch, C classes.

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...stores.errors import UsageError, unknown
from .correlation import centre
from .dkd import dkd
from .kd import kd
from .numerics import check_logits, check_scale, check_weight, compute_dtype, full_precision
from .registry import Loss, LossInputs, register

BASES = ("kd", "dkd")


def standardise(logits: Tensor) -> Tensor:
    """Each sample's logits, standardised: ``(z - mean_c z) / (1e-7 + std_c z)``, the deviation over C - 1.

    Give both nets' to any loss of logits: `kd` of them, for one, is logit-standardised KD. Shangquan Sun,
    Wenqi Ren, Jingzhi Li, Rui Wang, Xiaochun Cao, "Logit Standardization in Knowledge Distillation",
    https://arxiv.org/abs/2403.01427, algorithm 1; the 1e-7 is that of the authors' code. It makes the loss blind
    to the scale and the offset of a sample's logits, and the temperature that of the loss alone.

    Args:
        logits: (B, C) floating point, two classes or more.

    Returns:
        (B, C), 0 and with no gradient for a sample of equal logits; float32 (float64 if ``logits`` is).

    Raises:
        UsageError: a wrong shape or dtype, or a single class.
    """
    check_logits("lskd", logits)
    if logits.shape[1] < 2:
        raise UsageError("lskd: one class has no deviation. Give logits of two classes or more.")
    with full_precision(logits):
        difference = centre(logits.to(compute_dtype(logits)), dim=1)
        deviation = torch.linalg.vector_norm(difference, dim=1, keepdim=True) / math.sqrt(logits.shape[1] - 1)
        return difference / (1e-7 + deviation)


@register
@dataclass(frozen=True, kw_only=True)
class LSKD(Loss):
    """`kd` or `dkd` of standardised logits (`standardise`), as an entry of the registry.

    Attributes:
        base: the loss of the standardised logits: ``kd`` or ``dkd``.
        temperature: T, of the base; the authors' 2.
        alpha: `dkd`'s, where that is the base.
        beta: `dkd`'s, where that is the base.
    """

    name: ClassVar[str] = "lskd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    base: str = "kd"
    temperature: float = 2.0
    alpha: float = 1.0
    beta: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base not in BASES:
            raise unknown("base of lskd", self.base, BASES)
        check_scale(self.name, "temperature", self.temperature)
        check_weight(self.name, "alpha", self.alpha)
        check_weight(self.name, "beta", self.beta)

    @property
    def one_label(self) -> bool:
        """Whether it needs one label for every sample, as `dkd` does."""
        return self.base == "dkd"

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        student, teacher = standardise(batch.student_logits), standardise(batch.need("logits", self.name))
        if self.base == "kd":
            return kd(student, teacher, temperature=self.temperature)
        labels = batch.need("labels", self.name)
        return dkd(student, teacher, labels, alpha=self.alpha, beta=self.beta, temperature=self.temperature)
