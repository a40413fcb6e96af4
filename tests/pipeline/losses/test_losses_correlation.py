"""Soft ranks against the geometry that defines them, and the correlation losses against their formulas in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.losses import cmkd, dist, rlkd, soft_ranks
from kdpipe.pipeline.losses.correlation import pearson
from kdpipe.stores.errors import UsageError
from sklearn.isotonic import isotonic_regression

SEEDS = st.integers(0, 2**32 - 1)


def case(seed=0, batch=4, classes=6, scale=2.0):
    return np.random.default_rng(seed).normal(0, scale, (2, batch, classes))


def softmax(row):
    powers = [math.exp(z - max(row)) for z in row]
    return [power / sum(powers) for power in powers]


def correlation(a, b):
    a, b = np.asarray(a) - np.mean(a), np.asarray(b) - np.mean(b)
    return float(sum(a * b) / (math.sqrt(sum(a * a)) * math.sqrt(sum(b * b)) + 1e-8))


def ranks_by_isotonic_regression(scores, strength):
    scaled = np.asarray(scores) / strength
    order = np.argsort(-scaled, kind="stable")
    distance = scaled[order] - np.arange(len(scaled), 0, -1)
    ranks = np.empty(len(scaled))
    ranks[order] = scaled[order] - isotonic_regression(distance, increasing=False)
    return ranks


def value(function, *arrays, **options):
    return function(*(torch.tensor(array) for array in arrays), **options).item()


# soft ranks


@given(seed=SEEDS, size=st.integers(1, 5), strength=st.floats(0.05, 20))
def test_soft_ranks_are_the_nearest_point_of_the_permutahedron(seed, size, strength):
    """The projection y of x: (x - y) . (v - y) <= 0 for every corner v, which are the orders of 1..n."""
    scores = np.random.default_rng(seed).normal(0, 2, size)
    ranks = soft_ranks(torch.tensor(scores)[None], strength)[0].numpy()
    corners = np.array(list(itertools.permutations(range(1, size + 1))))
    away = scores / strength - ranks
    assert ((corners - ranks) @ away).max() <= 1e-9 * (1 + np.abs(away).max())
    descending = np.sort(ranks)[::-1].cumsum()
    assert (descending <= np.arange(size, 0, -1).cumsum() + 1e-9).all(), "inside"
    assert descending[-1] == pytest.approx(size * (size + 1) / 2)


@given(seed=SEEDS, size=st.integers(1, 300), strength=st.sampled_from([0.01, 0.1, 1.0, 30.0]), whole=st.booleans())
def test_soft_ranks_are_an_isotonic_regression(seed, size, strength, whole):
    scores = np.random.default_rng(seed).normal(0, 3, (3, size))
    scores = np.round(scores) if whole else scores  # ties
    expected = [ranks_by_isotonic_regression(row, strength) for row in scores]
    np.testing.assert_allclose(soft_ranks(torch.tensor(scores), strength), expected, rtol=1e-9, atol=1e-7)


def test_soft_ranks_of_adversarial_orders():
    """Where every pooling makes one new violator, so that there are as many rounds as scores."""
    falling = -np.cumsum(0.5 ** np.arange(40))
    growing = np.concatenate([[0.0], -np.cumsum(np.linspace(2, 0, 60))])
    for scores in (falling, growing, np.zeros(50), np.arange(50.0), -np.arange(50.0)):
        expected = ranks_by_isotonic_regression(scores, 1.0)
        np.testing.assert_allclose(soft_ranks(torch.tensor(scores)[None], 1.0)[0], expected, atol=1e-9)


def test_soft_ranks_are_ranks_where_scores_are_far_apart_and_their_mean_where_close():
    scores = torch.tensor([[5.0, -3, 0, 2]])
    assert soft_ranks(scores, 1.0).tolist() == [[4.0, 1.0, 2.0, 3.0]]
    blurred = soft_ranks(scores, 1e6)
    torch.testing.assert_close(blurred, torch.full((1, 4), 2.5), atol=1e-4, rtol=0)


@given(seed=SEEDS, strength=st.sampled_from([0.1, 1.0, 5.0]))
def test_soft_ranks_have_an_exact_gradient(seed, strength):
    scores = torch.tensor(np.random.default_rng(seed).normal(0, 2, (2, 7)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: soft_ranks(z, strength), scores, eps=1e-7, atol=1e-5)


def test_soft_ranks_of_many_classes_need_no_square():
    """1000 x 1000 pairs of 64 samples would be 256 MB."""
    scores = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    with torch.profiler.profile(profile_memory=True) as profile:
        soft_ranks(scores, 0.1)
    largest = max(event.self_cpu_memory_usage for event in profile.events() or ())
    assert largest <= 4 * 8 * scores.numel()


# Pearson


@given(seed=SEEDS, scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_pearson_is_numpys_and_blind_to_scale_and_offset(seed, scale, offset):
    one, other = torch.tensor(case(seed)).unbind()
    got = pearson(one, other, dim=1)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(pearson(scale * one + offset, other, dim=1), got, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pearson(-one, other, dim=1), -got)
    torch.testing.assert_close(pearson(one.t(), other.t(), dim=0), got)


def test_pearson_of_a_constant_is_0():
    assert pearson(torch.full((2, 3), 0.1), torch.randn(2, 3), dim=1).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_pearson_among_some():
    one, other = torch.tensor(case()).unbind()
    where = torch.tensor([[1.0, 1, 0, 1, 1, 0]]).expand(4, 6)
    kept = [0, 1, 3, 4]
    torch.testing.assert_close(pearson(one, other, dim=1, where=where), pearson(one[:, kept], other[:, kept], dim=1))


# DIST


@given(seed=SEEDS, temperature=st.floats(0.5, 8), beta=st.floats(0, 3), gamma=st.floats(0, 3))
def test_dist_is_its_formula(seed, temperature, beta, gamma):
    student, teacher = case(seed)
    q, p = (np.array([softmax(row / temperature) for row in z]) for z in (student, teacher))
    inter = 1 - np.mean([correlation(q[b], p[b]) for b in range(4)])
    intra = 1 - np.mean([correlation(q[:, c], p[:, c]) for c in range(6)])
    expected = temperature**2 * (beta * inter + gamma * intra)
    got = value(dist, student, teacher, beta=beta, gamma=gamma, temperature=temperature)
    assert got == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_dist_of_equals_is_0_and_of_affine_probabilities_too():
    student, teacher = case()
    assert value(dist, teacher, teacher) == pytest.approx(0, abs=1e-6)
    assert value(dist, teacher + 3.0, teacher) == pytest.approx(0, abs=1e-6)
    p = torch.tensor(teacher).softmax(1)
    mixed = (0.4 * p + 0.6 / 6).log()  # scaled, and shifted by a constant
    assert value(dist, mixed.numpy(), teacher) == pytest.approx(0, abs=1e-5)
    assert value(dist, student, teacher) > 0.1
    assert value(dist, student, teacher) == value(dist, student, teacher, beta=1.0, gamma=1.0, temperature=1.0)


# CMKD


@given(seed=SEEDS, temperature=st.floats(0.5, 8), alpha=st.floats(0, 3), beta=st.floats(0, 3))
def test_cmkd_is_its_formula(seed, temperature, alpha, beta):
    student, teacher = case(seed)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        hard = -sum(x * math.log(x) for x in p) / math.log(6)
        ranks = [ranks_by_isotonic_regression((z - z.mean()) / (z.std(ddof=1) + 1e-7), 0.1) for z in (s, t)]
        total += alpha * (1 - hard) * (1 - correlation(q, p)) + beta * hard * (1 - correlation(*ranks))
    got = value(cmkd, student, teacher, alpha=alpha, beta=beta, temperature=temperature)
    assert got == pytest.approx(total / 4, rel=1e-6, abs=1e-8)


def test_cmkd_weighs_ranks_where_the_teacher_doubts():
    student = np.array([[3.0, 1, 2, 0]])
    certain, doubting = np.array([[99.0, 2, 1, 0]]), np.array([[0.03, 0.02, 0.01, 0]])
    for teacher, values, ranks in ((certain, 1, 0), (doubting, 0, 1)):
        parts = [value(cmkd, student, teacher, alpha=a, beta=b, temperature=1.0) for a, b in ((1, 0), (0, 1))]
        assert parts[0] == pytest.approx(values * parts[0], abs=1e-3)
        assert parts[1] == pytest.approx(ranks * parts[1], abs=1e-3)
        assert sum(parts) > 0.01


def test_cmkd_ranks_do_not_see_a_monotone_change_of_far_scores():
    student, teacher = np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 2, 3, 4]])
    bent = np.array([[1.0, 2, 4, 8]])
    assert value(cmkd, bent, teacher, alpha=0.0) == pytest.approx(value(cmkd, student, teacher, alpha=0.0), abs=1e-7)
    assert value(cmkd, bent, teacher, beta=0.0) > 1e-4


# RLKD


@given(seed=SEEDS, k=st.integers(1, 12), strength=st.sampled_from([0.1, 1.0, 4.0]))
def test_rlkd_is_its_formula(seed, k, strength):
    student, teacher = case(seed, classes=9)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        union = sorted(set(np.argsort(-s)[:k].tolist()) | set(np.argsort(-t)[:k].tolist()))
        total += correlation(*(ranks_by_isotonic_regression(z[union], strength) for z in (s, t)))
    got = value(rlkd, student, teacher, k=k, strength=strength)
    assert got == pytest.approx(1 - total / 4, rel=1e-7, abs=1e-7)


def test_rlkd_is_spearman_where_scores_are_far_apart():
    student, teacher = 100.0 * np.array([[0.0, 1, 2, 3, 4, 5]]), 100.0 * np.array([[9.0, 0, 1, 2, 3, 4]])
    # union of the best two: classes 4, 5 of the student and 0, 5 of the teacher; ranks (1, 2, 3) and (3, 1, 2)
    assert value(rlkd, student, teacher, k=2) == pytest.approx(1 - correlation([1, 2, 3], [3, 1, 2]))
    assert value(rlkd, teacher, teacher, k=3) == pytest.approx(0, abs=1e-7)


def test_rlkd_sees_nothing_below():
    student, teacher = case(classes=9)
    below = np.argsort(np.maximum(student, teacher), axis=1)[:, :1]
    moved_student, moved_teacher = student.copy(), teacher.copy()
    for moved in (moved_student, moved_teacher):
        np.put_along_axis(moved, below, -50.0, axis=1)
    assert value(rlkd, moved_student, moved_teacher, k=2) == value(rlkd, student, teacher, k=2)


# errors


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (dist, {"beta": -1.0}, "dist: beta is -1.0"),
        (dist, {"gamma": math.nan}, "dist: gamma is nan"),
        (cmkd, {"strength": 0.0}, "cmkd: strength is 0.0"),
        (cmkd, {"alpha": -1.0}, "cmkd: alpha is -1.0"),
        (cmkd, {"beta": -1.0}, "cmkd: beta is -1.0"),
        (rlkd, {"k": 0}, "rlkd: k is 0"),
        (rlkd, {"strength": -1.0}, "rlkd: strength is -1.0"),
    ],
)
def test_errors(function, options, message):
    with pytest.raises(UsageError, match=message):
        function(torch.zeros(2, 3), torch.zeros(2, 3), **options)


def test_cmkd_needs_two_classes():
    with pytest.raises(UsageError, match="cmkd: student_logits has one class"):
        cmkd(torch.zeros(2, 1), torch.zeros(2, 1))
