"""The losses that are divergences of softmaxes, against their formulas written out class by class in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.losses import (
    abkd,
    bayesian_kd,
    bkd,
    cckd,
    dkd,
    kd,
    log_mean_probabilities,
    mixkd,
    parse_loss,
    redistill,
    standardise,
)
from kdpipe.pipeline.losses.registry import LossInputs
from kdpipe.stores.errors import UsageError

SEEDS = st.integers(0, 2**32 - 1)
TEMPERATURES = st.floats(0.5, 8)


def case(seed=0, batch=4, classes=6, scale=2.0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, (2, batch, classes))
    return student, teacher, rng.integers(0, classes, batch)


def softmax(row):
    powers = [math.exp(z - max(row)) for z in row]
    return [power / sum(powers) for power in powers]


def softmaxes(student, teacher, temperature):
    """(p, q) of every sample."""
    return [(softmax(t / temperature), softmax(s / temperature)) for s, t in zip(student, teacher, strict=True)]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def value(function, *arrays, **options):
    return function(*(torch.tensor(array) for array in arrays), **options).item()


# DKD


@given(seed=SEEDS, temperature=TEMPERATURES, alpha=st.floats(0, 3), beta=st.floats(0, 9))
def test_dkd_is_its_formula(seed, temperature, alpha, beta):
    student, teacher, labels = case(seed)
    total = 0.0
    for (p, q), y in zip(softmaxes(student, teacher, temperature), labels, strict=True):
        others = [k for k in range(len(p)) if k != y]
        target = kl([p[y], sum(p[k] for k in others)], [q[y], sum(q[k] for k in others)])
        rest_p, rest_q = (softmax([math.log(x[k]) for k in others]) for x in (p, q))
        total += alpha * target + beta * kl(rest_p, rest_q)
    got = value(dkd, student, teacher, labels, alpha=alpha, beta=beta, temperature=temperature)
    assert got == pytest.approx(temperature**2 * total / len(student), rel=1e-9, abs=1e-12)


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_dkd_with_the_teachers_doubt_as_beta_is_kd(seed, temperature):
    student, teacher, labels = case(seed, batch=1)
    doubt = 1 - softmax(teacher[0] / temperature)[labels[0]]
    got = value(dkd, student, teacher, labels, alpha=1.0, beta=doubt, temperature=temperature)
    assert got == pytest.approx(value(kd, student, teacher, temperature=temperature), rel=1e-9)


def test_dkd_defaults_are_the_authors():
    student, teacher, labels = case()
    assert value(dkd, student, teacher, labels) == value(
        dkd, student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0
    )


def test_dkd_of_a_certain_teacher_stays_finite():
    teacher = torch.tensor([[2000.0, 0, -2000]])
    student = torch.zeros(1, 3, requires_grad=True)
    loss = dkd(student, teacher, torch.tensor([0]), temperature=1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(math.log(3) + 8 * math.log(2), rel=1e-6)
    assert torch.isfinite(gradient).all()


# logit standardisation


def test_standardised_logits_have_mean_0_and_deviation_1():
    student, _, _ = case(scale=30.0)
    got = standardise(torch.tensor(student)).numpy()
    expected = [[(z - sum(row) / 6) / (1e-7 + np.std(row, ddof=1)) for z in row] for row in student]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@given(seed=SEEDS, scale=st.floats(0.1, 50), offset=st.floats(-50, 50))
def test_lskd_is_blind_to_scale_and_offset(seed, scale, offset):
    student, teacher, labels = (torch.tensor(x) for x in case(seed))
    plain = LossInputs(student_logits=student, logits=teacher, labels=labels)
    moved = LossInputs(student_logits=scale * student + offset, logits=teacher / scale, labels=labels)
    for text in ("lskd", "lskd,base=dkd"):
        loss = parse_loss(text)
        assert loss(moved).item() == pytest.approx(loss(plain).item(), rel=1e-4)


def test_lskd_is_its_base_of_standardised_logits():
    student, teacher, labels = (torch.tensor(x) for x in case())
    batch = LossInputs(student_logits=student, logits=teacher, labels=labels)
    zs, zt = standardise(student), standardise(teacher)
    assert parse_loss("lskd")(batch) == kd(zs, zt, temperature=2.0)
    assert parse_loss("lskd,temperature=3")(batch) == kd(zs, zt, temperature=3.0)
    expected = dkd(zs, zt, labels, alpha=2.0, beta=3.0, temperature=2.0)
    assert parse_loss("lskd,base=dkd,alpha=2,beta=3")(batch) == expected


def test_standardised_constant_logits_are_0():
    assert torch.equal(standardise(torch.full((2, 3), 7.0)), torch.zeros(2, 3))


# ABKD


def alpha_beta(p, q, a, b):
    """The definition, and each limit as it is stated."""
    if a == b == 0:
        terms = [0.5 * (math.log(y) - math.log(x)) ** 2 for x, y in zip(p, q, strict=True)]
    elif a == 0:
        terms = [(y**b * math.log(y**b / x**b) - y**b + x**b) / b**2 for x, y in zip(p, q, strict=True)]
    elif b == 0:
        terms = [(x**a * math.log(x**a / y**a) - x**a + y**a) / a**2 for x, y in zip(p, q, strict=True)]
    elif a == -b:
        terms = [(math.log(y**a / x**a) + x**a / y**a - 1) / a**2 for x, y in zip(p, q, strict=True)]
    else:
        s = a + b
        terms = [
            -(x**a * y**b - a / s * x**s - b / s * y**s) / (a * b) for x, y in zip(p, q, strict=True)
        ]  # fmt: skip
    return sum(terms)


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(0.8, 0.3), (0.3, 0.8), (1, 1), (0.5, 0.5), (2, -0.5), (1, 0), (0.5, 0), (0, 1), (0, 0.4), (0.7, -0.7),
     (-0.7, 0.7), (0, 0), (-0.5, 1.2)],
)  # fmt: skip
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_abkd_is_its_formula_and_its_limits(alpha, beta, seed, temperature):
    student, teacher, _ = case(seed)
    expected = np.mean([alpha_beta(p, q, alpha, beta) for p, q in softmaxes(student, teacher, temperature)])
    got = value(abkd, student, teacher, alpha=alpha, beta=beta, temperature=temperature)
    assert got == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_abkd_corners_are_forward_and_reverse_kl():
    student, teacher, _ = case()
    pairs = softmaxes(student, teacher, 4.0)
    assert value(abkd, student, teacher, alpha=1, beta=0) == pytest.approx(np.mean([kl(p, q) for p, q in pairs]))
    assert value(abkd, student, teacher, alpha=0, beta=1) == pytest.approx(np.mean([kl(q, p) for p, q in pairs]))


@pytest.mark.parametrize(("limit", "near"), [((1, 0), (1, 1e-6)), ((0, 1), (1e-6, 1)), ((0.5, -0.5), (0.5, -0.499999))])
def test_abkd_keeps_its_digits_near_a_limit_in_float32(limit, near):
    """Written as the definition, 1e-6 as a divisor would leave no digit of float32."""
    student, teacher, _ = case()
    exact = value(abkd, student, teacher, alpha=limit[0], beta=limit[1])
    got = value(abkd, np.float32(student), np.float32(teacher), alpha=near[0], beta=near[1])
    assert got == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.3, 0.8), (1, 0), (0, 1)])
def test_abkd_where_probabilities_underflow(alpha, beta):
    student = torch.tensor([[900.0, 0, -900]], requires_grad=True)
    loss = abkd(student, torch.tensor([[-900.0, 0, 900]]), alpha=alpha, beta=beta, temperature=1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("logits", "temperature"), [((100.0, 250.0), 1.0), ((400.0, 900.0), 4.0)])
def test_abkd_where_one_factor_underflows_and_the_other_overflows(logits, temperature):
    student, teacher = (np.array([[0, logit]]) for logit in logits)
    exact = value(abkd, student, teacher, alpha=1, beta=-0.5, temperature=temperature)
    leaf = torch.tensor(np.float32(student), requires_grad=True)
    loss = abkd(leaf, torch.tensor(np.float32(teacher)), alpha=1, beta=-0.5, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.item() == pytest.approx(exact, rel=1e-4)
    assert torch.isfinite(gradient).all()


def test_abkd_gradient_at_equality_is_0():
    student = torch.tensor(case()[0], requires_grad=True)
    (gradient,) = torch.autograd.grad(abkd(student, student.detach()), student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


# REDistill


@pytest.mark.parametrize("power", [2 / 3, 1.0, 0.2, -0.5])
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_redistill_is_its_formula(power, seed, temperature):
    student, teacher, _ = case(seed)
    total = 0.0
    for p, q in softmaxes(student, teacher, temperature):
        total += sum(a * ((a / b) ** power - 1) for a, b in zip(p, q, strict=True)) / (power * (power + 1))
    got = value(redistill, student, teacher, power=power, temperature=temperature)
    assert got == pytest.approx(temperature**2 * total / len(student), rel=1e-8, abs=1e-10)


def test_redistill_tends_to_kd():
    student, teacher, _ = case()
    whole = value(kd, student, teacher)
    assert value(redistill, student, teacher, power=0.0) == pytest.approx(whole, rel=1e-12)
    near = value(redistill, np.float32(student), np.float32(teacher), power=1e-6)
    assert near == pytest.approx(whole, rel=1e-4), "the definition would leave no digit of float32"


def test_redistill_where_a_probability_underflows():
    """q is exp(-120), 0 in float32, and the loss is what the formula says."""
    loss = redistill(torch.tensor([[120.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    q = 120.0  # -log q of the second class; the first is 1 - tiny
    expected = (0.5 * (0.5 ** (2 / 3) - 1) + 0.5 * (math.exp(2 / 3 * (math.log(0.5) + q)) - 1)) / (2 / 3 * 5 / 3)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_redistill_where_the_teachers_probability_underflows():
    """p is exp(-200), 0 in float32, and q far smaller: the class still counts p^(5/3) / q^(2/3), here exp(-100)."""
    student = torch.tensor([[0.0, -350.0]], requires_grad=True)
    loss = redistill(student, torch.tensor([[0.0, -200.0]]), temperature=1.0)
    loss.backward()
    assert 0 <= loss.item() < 1e-40
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-40


# BKD and class-calibrated KD


@given(seed=SEEDS, temperature=TEMPERATURES, beta=st.sampled_from([0.5, 0.9, 0.9999]))
def test_bkd_is_its_formula(seed, temperature, beta):
    student, teacher, _ = case(seed)
    counts = np.array([5000, 700, 90, 12, 2, 1])
    weights = [(1 - beta) / (1 - beta**n) for n in counts.tolist()]
    weights = [6 * w / sum(weights) for w in weights]
    total = 0.0
    for p, q in softmaxes(student, teacher, temperature):
        scaled = [w * a for w, a in zip(weights, p, strict=True)]
        total += kl([a / sum(scaled) for a in scaled], q)
    got = value(bkd, student, teacher, counts, beta=beta, temperature=temperature)
    assert got == pytest.approx(temperature**2 * total / len(student), rel=1e-8)


@pytest.mark.parametrize(("counts", "beta"), [([7] * 6, 0.9999), ([9, 8, 7, 3, 2, 1], 0.0)])
def test_bkd_of_equal_weights_is_kd(counts, beta):
    student, teacher, _ = case()
    got = value(bkd, student, teacher, np.array(counts), beta=beta)
    assert got == pytest.approx(value(kd, student, teacher, temperature=2.0), rel=1e-10)


def test_bkd_in_float32_tells_large_counts_apart():
    """1 - 0.9999**n of n = 1 is 1e-4: written as it stands, float32 would keep three digits of it."""
    student, teacher, _ = case()
    counts = np.array([100_000, 50_000, 10_000, 100, 2, 1])
    exact = value(bkd, student, teacher, counts)
    assert value(bkd, np.float32(student), np.float32(teacher), counts) == pytest.approx(exact, rel=1e-5)


def test_bkd_counts_an_absent_class_as_one_sample():
    student, teacher, _ = case()
    absent, one = np.array([9, 8, 7, 3, 2, 0]), np.array([9, 8, 7, 3, 2, 1])
    assert value(bkd, student, teacher, absent) == value(bkd, student, teacher, one)


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_cckd_is_its_formula(seed, temperature):
    student, teacher, _ = case(seed)
    mass = np.random.default_rng(seed).dirichlet(np.ones(6)) + 1e-3
    total = 0.0
    for p, q in softmaxes(student, teacher, temperature):
        scaled = [a / m for a, m in zip(p, mass, strict=True)]
        total += kl([a / sum(scaled) for a in scaled], q)
    got = value(cckd, student, teacher, mass, temperature=temperature)
    assert got == pytest.approx(temperature**2 * total / len(student), rel=1e-8)
    assert value(cckd, student, teacher, 7 * mass, temperature=temperature) == pytest.approx(got, rel=1e-12)


def test_cckd_of_an_unbiased_teacher_is_kd():
    student, teacher, _ = case()
    assert value(cckd, student, teacher, np.full(6, 1 / 6)) == pytest.approx(value(kd, student, teacher), rel=1e-12)


def test_cckd_takes_a_constant_bias_out():
    """A teacher whose logits of some classes are raised by a constant gives the same loss, bias measured."""
    student, teacher, _ = case(batch=50)
    bias = np.array([3.0, 1, 0, 0, -1, -4])

    def calibrated(logits):
        probabilities = np.array([softmax(row / 4.0) for row in logits])
        target = probabilities / probabilities.mean(0)
        return value(cckd, student, logits, probabilities.mean(0)), target / target.sum(1, keepdims=True)

    (plain, target), (biased, from_biased) = calibrated(teacher), calibrated(teacher + bias)
    assert biased == pytest.approx(plain, rel=0.1)
    assert np.abs(target - from_biased).max() < 0.15
    assert value(kd, student, teacher + bias) > 1.5 * value(kd, student, teacher)


# views


def test_log_mean_probabilities():
    views = np.random.default_rng(0).normal(0, 3, (5, 4, 6))
    expected = np.mean([[softmax(row / 2) for row in view] for view in views], axis=0)
    got = log_mean_probabilities(torch.tensor(views), temperature=2.0)
    np.testing.assert_allclose(got.exp(), expected, rtol=1e-12)
    np.testing.assert_allclose(got.softmax(1), expected, rtol=1e-12, err_msg="they are logits too")


def test_log_mean_probabilities_where_a_view_underflows():
    views = torch.tensor([[[0.0, -2000.0]], [[0.0, -1000.0]]])
    got = log_mean_probabilities(views)
    assert got[0, 1].item() == pytest.approx(-1000 - math.log(2))
    assert got[0, 0].item() == 0


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_bayesian_kd_is_its_formula(seed, temperature):
    student, _, _ = case(seed)
    views = np.random.default_rng(seed).normal(0, 3, (3, 4, 6))
    total = 0.0
    for b, row in enumerate(student):
        mean = np.mean([softmax(view[b] / temperature) for view in views], axis=0)
        total -= sum(m * math.log(q) for m, q in zip(mean, softmax(row), strict=True))
    assert value(bayesian_kd, student, views, temperature=temperature) == pytest.approx(total / 4, rel=1e-9)


def test_bayesian_kd_is_computed_in_the_students_precision():
    student, views = torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 4, 6)
    assert bayesian_kd(student, views) == bayesian_kd(student, views.double())
    assert bayesian_kd(student.float(), views.double()).dtype == torch.float32


def test_bayesian_kd_of_one_view_is_kd_and_the_teachers_entropy():
    student, teacher, _ = case()
    entropy = np.mean([-sum(p * math.log(p) for p in softmax(row)) for row in teacher])
    got = value(bayesian_kd, student, teacher[None])
    assert got == pytest.approx(value(kd, student, teacher, temperature=1.0) + entropy, rel=1e-10)


# mixed views


@given(seed=SEEDS, temperature=TEMPERATURES, per_sample=st.booleans())
def test_mixkd_is_its_formula(seed, temperature, per_sample):
    student, teacher, _ = case(seed)
    partner = np.random.default_rng(seed + 1).normal(0, 2, teacher.shape)
    shares = np.random.default_rng(seed).uniform(0, 1, 4) if per_sample else np.full(4, 0.3)
    total = 0.0
    for row, first, second, share in zip(student, teacher, partner, shares, strict=True):
        p, other = softmax(first / temperature), softmax(second / temperature)
        mixed = [share * a + (1 - share) * b for a, b in zip(p, other, strict=True)]
        total += kl(mixed, softmax(row / temperature))
    mixing = torch.tensor(shares) if per_sample else 0.3
    arrays = [torch.tensor(array) for array in (student, teacher, partner)]
    got = mixkd(arrays[0], arrays[1], arrays[2], mixing, temperature=temperature).item()
    assert got == pytest.approx(temperature**2 * total / 4, rel=1e-8)


@pytest.mark.parametrize(("share", "whose"), [(1.0, 0), (0.0, 1), (torch.tensor([0.0, 1, 0, 1]), None)])
def test_mixkd_of_one_part_is_kd_of_that_part(share, whose):
    student, teacher, _ = (torch.tensor(x) for x in case())
    partner = torch.tensor(case(1)[1])
    student.requires_grad_()
    loss = mixkd(student, teacher, partner, share)
    if whose is None:
        expected = kd(student, torch.where(share[:, None] == 1, teacher, partner))
    else:
        expected = kd(student, (teacher, partner)[whose])
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


def test_mixkd_of_mixed_equals_is_kd():
    student, teacher, _ = case()
    got = mixkd(torch.tensor(student), torch.tensor(teacher), torch.tensor(teacher), 0.37).item()
    assert got == pytest.approx(value(kd, student, teacher), rel=1e-12)


# errors

T23, T24 = torch.zeros(2, 3), torch.zeros(2, 4)
Y2 = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dkd(T23, T23, Y2, beta=-1.0), "dkd: beta is -1.0"),
        (lambda: dkd(T23, T23, Y2, alpha=math.inf), "dkd: alpha is inf"),
        (lambda: dkd(T23[:, :1], T23[:, :1], Y2 * 0), "dkd: student_logits has one class"),
        (lambda: dkd(T23, T23, torch.tensor([0, 3])), "dkd: labels holds class ids from 0 to 3"),
        (lambda: dkd(T23, T23, torch.tensor([-1, 2])), "dkd: labels holds class ids from -1 to 2"),
        (lambda: dkd(T23, T23, Y2[:1]), r"dkd: labels has shape \(1,\)"),
        (lambda: dkd(T23, T23, Y2.float()), "dkd: labels is torch.float32"),
        (lambda: standardise(T23[:, :1]), "lskd: one class"),
        (lambda: parse_loss("lskd,base=dist"), "Unknown base of lskd 'dist'"),
        (lambda: abkd(T23, T23, alpha=math.nan), "abkd: alpha is nan"),
        (lambda: abkd(T23, T23, beta=math.inf), "abkd: beta is inf"),
        (lambda: redistill(T23, T23, power=-1.0), "redistill: power is -1.0"),
        (lambda: parse_loss("redistill,power=-2"), "redistill: power is -2.0"),
        (lambda: bkd(T23, T23, torch.ones(3), beta=1.0), "bkd: beta is 1.0"),
        (lambda: parse_loss("bkd,beta=-0.1"), "bkd: beta is -0.1"),
        (lambda: bkd(T23, T23, torch.ones(4)), r"bkd: class_counts has shape \(4,\), the student has 3 classes"),
        (lambda: bkd(T23, T23, torch.tensor([1, -2, 3])), "bkd: class_counts holds -2"),
        (lambda: bkd(T23, T23, torch.tensor([1, math.nan, 3])), "bkd: class_counts holds nan"),
        (lambda: cckd(T23, T23, torch.tensor([0.5, 0.5, 0.0])), "cckd: class_mass holds 0.0"),
        (lambda: cckd(T23, T23, torch.ones(2)), r"cckd: class_mass has shape \(2,\)"),
        (lambda: log_mean_probabilities(T23), "bayesian: view_logits"),
        (lambda: bayesian_kd(T23, torch.zeros(5, 2, 4)), "bayesian: teacher_logits has shape"),
        (lambda: mixkd(T23, T23, T23, 1.5), "mixkd: mixing is 1.5"),
        (lambda: mixkd(T23, T23, T23, math.nan), "mixkd: mixing is nan"),
        (lambda: mixkd(T23, T23, T23, torch.tensor([0.5, -0.1])), "mixkd: mixing holds shares outside"),
        (lambda: mixkd(T23, T23, T23, torch.ones(3)), r"mixkd: mixing is torch.float32 of shape \(3,\)"),
        (lambda: mixkd(T23, T23, T24, 0.5), r"mixkd: teacher_logits has shape \(2, 4\)"),
    ],
)  # fmt: skip
def test_errors(call, message):
    with pytest.raises(UsageError, match=message):
        call()
