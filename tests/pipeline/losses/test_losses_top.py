"""KD and LTKD from the teacher's best classes: exact where they can be, else below the whole loss, never above."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.losses import KD, LTKD, LossInputs, kd, kd_top, ltkd, ltkd_top
from kdpipe.pipeline.losses.top import coarse_divergence
from kdpipe.stores import UsageError
from scipy import special

GROUPS = torch.tensor([0, 0, 1, 1, 1, 2, 2])


def drawn(seed: int, scale: float = 3.0, batch: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Student (with gradient) and teacher logits, float64."""
    generator = torch.Generator().manual_seed(seed)
    student = scale * torch.randn(batch, 7, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), scale * torch.randn(batch, 7, generator=generator, dtype=torch.float64)


def stored(teacher: torch.Tensor, k: int, temperature: float) -> dict[str, Any]:
    """What a top-k store holds of these logits, by other means."""
    values = teacher.numpy() / temperature
    top = teacher.sort(dim=1, descending=True)
    groups = [np.asarray(special.logsumexp(values[:, GROUPS.numpy() == group], axis=1)) for group in range(3)]
    return {
        "top_classes": top.indices[:, :k].to(torch.uint8),
        "top_logits": top.values[:, :k],
        "logsumexp": torch.from_numpy(np.asarray(special.logsumexp(values, axis=1))),
        "group_logsumexp": torch.from_numpy(np.stack(groups, axis=1)),
    }


def kd_of(student: torch.Tensor, held: dict[str, Any], temperature: float) -> torch.Tensor:
    return kd_top(student, held["top_classes"], held["top_logits"], held["logsumexp"], temperature=temperature)


def ltkd_of(student: torch.Tensor, held: dict[str, Any], temperature: float, **options: Any) -> torch.Tensor:
    classes, logits, sums = held["top_classes"], held["top_logits"], held["group_logsumexp"]
    return ltkd_top(student, classes, logits, sums, GROUPS, temperature=temperature, **options)


SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.sampled_from([0.5, 1.0, 4.0, 20.0])


@given(SEEDS, TEMPERATURES, st.sampled_from([0.01, 3.0, 40.0]))
def test_with_all_classes_kept_it_is_the_whole_loss(seed: int, temperature: float, scale: float) -> None:
    for top, whole in (
        (kd_of, lambda s, t: kd(s, t, temperature=temperature)),
        (ltkd_of, lambda s, t: ltkd(s, t, GROUPS, temperature=temperature)),
    ):
        student, teacher = drawn(seed, scale)
        value = top(student, stored(teacher, 7, temperature), temperature)
        expected = whole(student, teacher)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
        gradients = [torch.autograd.grad(loss, student)[0] for loss in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


@given(SEEDS, TEMPERATURES, st.integers(1, 6), st.sampled_from([0.01, 3.0, 40.0]))
def test_it_is_never_above_the_whole_loss_nor_below_zero(seed: int, temperature: float, k: int, scale: float) -> None:
    """The log-sum inequality."""
    student, teacher = drawn(seed, scale)
    held = stored(teacher, k, temperature)
    slack = 1e-9 * temperature**2
    assert -slack <= kd_of(student, held, temperature) <= kd(student, teacher, temperature=temperature) + slack
    whole = ltkd(student, teacher, GROUPS, temperature=temperature)
    cross = ltkd(student, teacher, GROUPS, temperature=temperature, beta=0)
    assert cross - slack <= ltkd_of(student, held, temperature) <= whole + slack


@given(SEEDS, TEMPERATURES, st.integers(1, 6))
def test_more_classes_never_say_less(seed: int, temperature: float, k: int) -> None:
    student, teacher = drawn(seed)
    for loss in (kd_of, ltkd_of):
        fewer, more = (loss(student, stored(teacher, count, temperature), temperature) for count in (k, k + 1))
        assert fewer <= more + 1e-9 * temperature**2


@given(SEEDS, TEMPERATURES, st.integers(1, 7))
def test_ltkd_s_cross_group_loss_is_exact(seed: int, temperature: float, k: int) -> None:
    student, teacher = drawn(seed)
    for mass in (None, torch.tensor([0.2, 3.0, 1.0])):
        options: dict[str, Any] = {"beta": 0.0, "group_mass": mass}
        value = ltkd_of(student, stored(teacher, k, temperature), temperature, **options)
        expected = ltkd(student, teacher, GROUPS, temperature=temperature, **options)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
        gradients = [torch.autograd.grad(loss, student)[0] for loss in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


@given(SEEDS, st.integers(1, 6))
def test_kd_is_the_divergence_over_the_kept_classes_and_the_rest(seed: int, k: int) -> None:
    """By plain sums over probabilities."""
    student, teacher = drawn(seed)
    p, q = (special.softmax(z.detach().numpy() / 2, axis=1) for z in (teacher, student))
    total = 0.0
    for row in range(len(p)):
        kept = np.argsort(-p[row])[:k]
        events = [(p[row, c], q[row, c]) for c in kept] + [(1 - p[row, kept].sum(), 1 - q[row, kept].sum())]
        total += sum(a * np.log(a / b) for a, b in events if a > 0)
    assert kd_of(student, stored(teacher, k, 2.0), 2.0).item() == pytest.approx(4 * total / len(p), rel=1e-9)


@given(SEEDS, st.integers(1, 6))
def test_ltkd_s_within_group_loss_is_over_each_group_s_kept_classes_and_its_rest(seed: int, k: int) -> None:
    student, teacher = drawn(seed)
    total = 0.0
    for s, t in zip(student.detach().numpy(), teacher.numpy(), strict=True):
        kept = np.zeros(7, bool)
        kept[np.argsort(-t)[:k]] = True
        for group in range(3):
            members = GROUPS.numpy() == group
            p, q, known = special.softmax(t[members]), special.softmax(s[members]), kept[members]
            events = [*zip(p[known], q[known], strict=True)]
            if not known.all():
                events.append((p[~known].sum(), q[~known].sum()))
            total += sum(a * np.log(a / b) for a, b in events)
    value = ltkd_of(student, stored(teacher, k, 1.0), 1.0, alpha=0.0)
    assert value.item() == pytest.approx(total / len(student), rel=1e-9, abs=1e-12)


def test_nothing_is_lost_where_both_spread_the_rest_alike() -> None:
    student, teacher = drawn(0)
    order = teacher.argsort(dim=1, descending=True)
    rest = torch.ones(5, 7, dtype=torch.bool).scatter_(1, order[:, :3], False)
    alike = torch.where(rest, teacher + 1.7, student.detach())
    value = kd_of(alike, stored(teacher, 3, 4.0), 4.0)
    torch.testing.assert_close(value, kd(alike, teacher, temperature=4.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("loss", [kd_of, ltkd_of])
def test_gradients(loss: Any, k: int) -> None:
    student, teacher = drawn(1, batch=2)
    held = stored(teacher, k, 2.0)
    assert torch.autograd.gradcheck(lambda s: loss(s, held, 2.0), (student,))


@pytest.mark.parametrize("loss", [kd_of, ltkd_of])
@pytest.mark.parametrize("k", [1, 2, 6, 7])
def test_extreme_logits_stay_finite(loss: Any, k: int) -> None:
    teacher = torch.tensor([[1000.0, 0, -1000, 3, 2, 1, 500]], dtype=torch.float64)
    student = torch.tensor([[-2000.0, 2000, 0, 0, 0, 0, 0]], requires_grad=True)
    value = loss(student, stored(teacher, k, 1.0), 1.0)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", [kd_of, ltkd_of])
def test_half_precision_is_computed_in_float32(loss: Any) -> None:
    student, teacher = drawn(2)
    half = student.detach().half()
    held = stored(teacher, 3, 4.0)
    held = {name: value.float() if value.is_floating_point() else value for name, value in held.items()}
    assert loss(half, held, 4.0).dtype == torch.float32
    torch.testing.assert_close(loss(half, held, 4.0), loss(half.float(), held, 4.0))


def test_rounding_of_the_sums_never_makes_a_negative_tail() -> None:
    student, teacher = drawn(3)
    held = stored(teacher, 6, 1.0)
    held["logsumexp"] = held["logsumexp"] - 1.0
    log_p = held["top_logits"] - held["logsumexp"][:, None]
    assert (log_p.exp().sum(1) > 1).all()
    log_q = student.log_softmax(1).gather(1, held["top_classes"].long())
    torch.testing.assert_close(kd_of(student, held, 1.0), (log_p.exp() * (log_p - log_q)).sum(1).mean())


def test_a_group_of_which_nothing_is_kept_adds_nothing() -> None:
    kept = torch.zeros(1, 3, dtype=torch.bool)
    log_q = torch.randn(1, 3).log_softmax(1)
    assert coarse_divergence(torch.full((1, 3), torch.nan), log_q, kept).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"top_classes": torch.zeros(5, 3)}, "top_classes is torch.float32"),
        ({"top_classes": torch.full((5, 3), 7)}, "holds class ids from 7 to 7, the student has 7"),
        ({"top_classes": torch.zeros(5, 8, dtype=torch.long)}, r"top_classes has shape \(5, 8\)"),
        ({"top_logits": torch.zeros(5, 2)}, r"top_logits \(5, 2\)"),
        ({"logsumexp": torch.zeros(4), "group_logsumexp": torch.zeros(4, 3)}, "logsumexps for 4 samples, not for 5"),
    ],
)
@pytest.mark.parametrize("loss", [kd_of, ltkd_of])
def test_what_does_not_fit_is_refused(loss: Any, change: dict[str, Any], says: str) -> None:
    student, teacher = drawn(4)
    with pytest.raises(UsageError, match=says):
        loss(student, stored(teacher, 3, 4.0) | change, 4.0)


def test_sums_of_too_few_groups_are_refused() -> None:
    student, teacher = drawn(4)
    held = stored(teacher, 3, 4.0)
    with pytest.raises(UsageError, match=r"group_logsumexp has shape \(5, 2\) for 3 groups"):
        ltkd_of(student, held | {"group_logsumexp": held["group_logsumexp"][:, :2]}, 4.0)


def test_the_registry_takes_either_form() -> None:
    student, teacher = drawn(5)
    held = {4.0: stored(teacher, 3, 4.0), 1.0: stored(teacher, 3, 1.0)}
    batch = LossInputs(
        student_logits=student,
        labels=torch.zeros(5, dtype=torch.long),
        top_classes=held[1.0]["top_classes"],
        top_logits=held[1.0]["top_logits"],
        logsumexp=torch.stack([held[t]["logsumexp"] for t in (1.0, 4.0)], dim=1),
        group_logsumexp=torch.cat([held[t]["group_logsumexp"] for t in (1.0, 4.0)], dim=1),
        temperatures=(1.0, 4.0),
        class_groups=GROUPS,
    )
    for temperature in (1.0, 4.0):
        assert KD(temperature=temperature)(batch) == kd_of(student, held[temperature], temperature)
        assert LTKD(temperature=temperature)(batch) == ltkd_of(student, held[temperature], temperature)
    with pytest.raises(UsageError, match="logsumexp at temperature 2; it has 1, 4"):
        KD(temperature=2.0)(batch)
