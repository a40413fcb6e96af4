"""CMKD: correlation matching, of the probabilities and of the ranks, weighed by how hard a sample is."""

# Shapes: B batch, C classes.

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...stores.errors import UsageError
from .correlation import pearson, soft_ranks
from .lskd import standardise
from .numerics import check_logits, check_scale, check_weight, compute_dtype, full_precision, log_softmaxes
from .registry import Loss, LossInputs, register


def cmkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    temperature: float = 4.0,
    strength: float = 0.1,
) -> Tensor:
    """Correlation matching (CMKD): Pearson's and Spearman's correlation with the teacher, sample by sample.

    ``(1/B) sum_b [ alpha (1 - h_b) (1 - rho(q_b, p_b)) + beta h_b (1 - rho(r^s_b, r^t_b)) ]``

    with ``p = softmax(z^t / T)``, ``q = softmax(z^s / T)``, Pearson's rho, r the soft ranks (`soft_ranks`) of the
    standardised logits (`standardise`), and h_b = H(p_b) / log C, between 0 (the teacher is certain) and 1. Wenqi
    Niu, Yingchao Wang, Guohui Cai, Hanpo Hou, "Efficient and Robust Knowledge Distillation from A Stronger
    Teacher Based on Correlation Matching", https://arxiv.org/abs/2410.06561.

    The paper's abstract gives the two correlations and that their weights follow the sample's difficulty. The
    rest is kdpipe's choice: h as the difficulty, that the ranks count for the hard samples and the values for
    the easy ones, soft ranks by projection and of standardised logits, no T^2, and every default.

    Args:
        student_logits: (B, C) floating point; half precision is computed in float32.
        teacher_logits: (B, C) floating point; no gradient flows into it.
        alpha: factor of the part of the values, 0 or above.
        beta: factor of the part of the ranks, 0 or above.
        temperature: T, from 0.01 to 1000.
        strength: of the soft ranks, in standard deviations of a sample's logits, from 0.01 to 1000.

    Returns:
        A scalar, float32 (float64 if ``student_logits`` is).

    Raises:
        UsageError: shapes that do not match, integer logits, a single class, a temperature or strength out of
            range, a negative factor.
    """
    check_logits("cmkd", student_logits, teacher_logits)
    check_weight("cmkd", "alpha", alpha)
    check_weight("cmkd", "beta", beta)
    check_scale("cmkd", "temperature", temperature)
    check_scale("cmkd", "strength", strength)
    num_classes = student_logits.shape[1]
    if num_classes < 2:
        raise UsageError("cmkd: student_logits has one class. Give two or more: one has no order.")
    dtype = compute_dtype(student_logits)
    with full_precision(student_logits):
        # once, so that the gradients of the two parts are added before they are rounded
        student, teacher = student_logits.to(dtype), teacher_logits.detach().to(dtype)
        log_q, log_p = log_softmaxes(student, teacher, temperature)
        difficulty = -(log_p.exp() * log_p).sum(1) / math.log(num_classes)
        values = 1 - pearson(log_q.exp(), log_p.exp(), dim=1)
        ranks = (soft_ranks(standardise(logits), strength) for logits in (student, teacher))
        order = 1 - pearson(*ranks, dim=1)
        return (alpha * (1 - difficulty) * values + beta * difficulty * order).mean()


@register
@dataclass(frozen=True, kw_only=True)
class CMKD(Loss):
    """`cmkd` as an entry of the registry."""

    name: ClassVar[str] = "cmkd"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    alpha: float = 1.0
    beta: float = 1.0
    temperature: float = 4.0
    strength: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight(self.name, "alpha", self.alpha)
        check_weight(self.name, "beta", self.beta)
        check_scale(self.name, "temperature", self.temperature)
        check_scale(self.name, "strength", self.strength)

    def __call__(self, batch: LossInputs) -> Tensor:
        """The loss of one batch, unweighted: a scalar."""
        return cmkd(
            batch.student_logits,
            batch.need("logits", self.name),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            strength=self.strength,
        )
