"""The listwise losses and GRKD on the rebalanced teacher, against their formulas written out in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.losses import grkd, grkd_rebalanced, listmle, pld
from kdpipe.stores.errors import UsageError

SEEDS = st.integers(0, 2**32 - 1)
GROUPS = np.array([0, 2, 1, 0, 2, 1])


def case(seed=0, batch=4, classes=6, scale=2.0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, (2, batch, classes))
    return student, teacher, rng.integers(0, classes, batch)


def softmax(row):
    powers = [math.exp(z - max(row)) for z in row]
    return [power / sum(powers) for power in powers]


def choice_cost(scores, place):
    """-log of the probability that place's class is chosen among those not yet chosen."""
    return math.log(sum(math.exp(z) for z in scores[place:])) - scores[place]


def value(function, *arrays, **options):
    options = {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    return function(*(torch.tensor(array) for array in arrays), **options).item()


# ListMLE


@given(seed=SEEDS, depth=st.one_of(st.none(), st.integers(1, 9)))
def test_listmle_is_its_formula(seed, depth):
    student, teacher, _ = case(seed)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        ordered = s[np.argsort(-t)]
        total += sum(choice_cost(ordered, k) for k in range(min(depth or 6, 6)))
    assert value(listmle, student, teacher_logits=teacher, depth=depth) == pytest.approx(total / 4, rel=1e-10)
    ranks = np.argsort(-teacher, axis=1)
    assert value(listmle, student, ranks=ranks, depth=depth) == pytest.approx(total / 4, rel=1e-10)


def test_listmle_is_a_distribution_over_orders():
    student = case(classes=4, batch=1)[0]
    orders = np.array(list(itertools.permutations(range(4))))
    likelihoods = [math.exp(-value(listmle, student, ranks=order[None])) for order in orders]
    assert sum(likelihoods) == pytest.approx(1, rel=1e-12)


def test_listmle_of_cut_ranks_is_the_top_k_form():
    student, teacher, _ = case()
    ranks = np.argsort(-teacher, axis=1)
    cut = value(listmle, student, ranks=ranks[:, :3].astype(np.uint8))
    assert cut == pytest.approx(value(listmle, student, teacher_logits=teacher, depth=3), rel=1e-12)
    assert value(listmle, student, ranks=ranks[:, :3], depth=5) == cut


def test_listmle_of_depth_1_is_cross_entropy_with_the_teachers_best():
    student, teacher, _ = case()
    expected = F.cross_entropy(torch.tensor(student), torch.tensor(teacher).argmax(1)).item()
    assert value(listmle, student, teacher_logits=teacher, depth=1) == pytest.approx(expected, rel=1e-12)


# PLD


@given(seed=SEEDS, temperature=st.floats(0.2, 8))
def test_pld_is_its_formula(seed, temperature):
    student, teacher, labels = case(seed)
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        order = [int(y), *(int(k) for k in np.argsort(-t) if k != y)]
        weights = softmax(t / temperature)
        total += sum(weights[c] * choice_cost(s[order], k) for k, c in enumerate(order))
    assert value(pld, student, teacher, labels, temperature=temperature) == pytest.approx(total / 4, rel=1e-10)


def test_pld_of_a_teacher_certain_of_the_label_is_cross_entropy():
    student, _, labels = case()
    certain = 1e5 * np.eye(6)[labels]
    expected = F.cross_entropy(torch.tensor(student), torch.tensor(labels)).item()
    assert value(pld, student, certain, labels) == pytest.approx(expected, rel=1e-12)


def test_pld_of_an_undecided_teacher_is_listmle_of_the_label_and_the_class_ids():
    student, teacher, labels = case()
    order = np.array([[y, *(k for k in range(6) if k != y)] for y in labels])
    expected = value(listmle, student, ranks=order) / 6
    assert value(pld, student, np.zeros_like(teacher), labels) == pytest.approx(expected, rel=1e-12)
    nearly = value(pld, student, -1e-9 * np.arange(6.0) + np.zeros_like(teacher), labels, temperature=1e3)
    assert nearly == pytest.approx(expected, rel=1e-9)


def test_pld_is_convex_and_blind_to_an_offset():
    student, teacher, labels = case()
    other = case(1)[0]
    ends = [value(pld, z, teacher, labels) for z in (student, other)]
    assert value(pld, (student + other) / 2, teacher, labels) <= sum(ends) / 2
    assert value(pld, student + 7.0, teacher, labels) == pytest.approx(ends[0], rel=1e-12)


def test_pld_with_extreme_logits_stays_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = pld(student, torch.tensor([[-500.0, 500, 0]]), torch.tensor([2]))
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


# GRKD on the rebalanced teacher


@given(seed=SEEDS, temperature=st.floats(0.5, 8), tau=st.floats(0.3, 3))
def test_rebalanced_grkd_is_its_formula(seed, temperature, tau):
    student, teacher, _ = case(seed)
    mass = np.random.default_rng(seed).uniform(0.05, 1, 3)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        score = [t[c] / temperature - math.log(mass[GROUPS[c]]) for c in range(6)]
        pairs = [(i, j) for i in range(6) for j in range(6) if score[i] > score[j]]
        total += sum(math.log1p(math.exp(-(s[i] - s[j]) / tau)) for i, j in pairs) / len(pairs)
    got = value(grkd_rebalanced, student, teacher, GROUPS, mass, temperature=temperature, tau=tau)
    assert got == pytest.approx(total / 4, rel=1e-6)


def test_rebalanced_grkd_of_equal_masses_is_grkd():
    student, teacher, _ = case()
    expected = value(grkd, student, teacher_logits=teacher, tau=0.5, reduction="sum")
    got = value(grkd_rebalanced, student, teacher, GROUPS, np.full(3, 0.3), tau=0.5, reduction="sum")
    assert got == pytest.approx(expected, rel=1e-12)


def test_rebalancing_keeps_the_order_within_groups_and_lifts_the_rare_one():
    """With a tail of almost no mass, every tail class is wanted above every other, in the teacher's order."""
    teacher = np.array([[9.0, 1.0, 5.0, 8.0, 0.0, 4.0]])  # groups 0 2 1 0 2 1
    wanted = [1, 4, 0, 3, 2, 5]
    student = -100.0 * np.argsort(wanted)[None].astype(float)
    mass = np.array([0.5, 0.5, 1e-9])
    assert value(grkd_rebalanced, student, teacher, GROUPS, mass) == pytest.approx(0, abs=1e-9)
    assert value(grkd, student, teacher_logits=teacher) > 10


def test_rebalanced_grkd_of_half_precision_logits_is_computed_in_float32():
    """Float16 neighbours near 20 are 1/64 apart; raised by 13.8 in float16, they would be equal and give no pair."""
    student = np.array([[0.5, -1.0, 2.0]])
    teacher = np.array([[20.0, 20.015625, 3.0]])
    groups, mass = np.array([0, 0, 1]), np.array([1e-6, 1.0])
    stored = torch.tensor(teacher).half()
    assert stored[0, 0] != stored[0, 1]
    got = grkd_rebalanced(
        torch.tensor(student).float(), stored, torch.tensor(groups), torch.tensor(mass), temperature=1.0
    ).item()
    assert got == pytest.approx(value(grkd_rebalanced, student, teacher, groups, mass, temperature=1.0), rel=1e-5)
    assert got == pytest.approx(sum(math.log1p(math.exp(gap)) for gap in (1.5, 1.5, 3.0)) / 3, rel=1e-5)


def test_a_group_without_classes_may_have_no_mass():
    student, teacher, _ = case()
    spread = np.array([0, 2, 4])[GROUPS]
    mass = np.array([0.5, 0.2, 0.3])
    expected = value(grkd_rebalanced, student, teacher, GROUPS, mass)
    got = value(grkd_rebalanced, student, teacher, spread, np.array([0.5, 0, 0.2, 0, 0.3]))
    assert got == expected


# errors

T23, MASS = torch.zeros(2, 3), torch.tensor([0.5, 0.5])
G3 = torch.tensor([0, 0, 1])
Y2 = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: listmle(T23), "listmle: neither of ranks and teacher_logits"),
        (lambda: listmle(T23, ranks=Y2[:, None], teacher_logits=T23), "listmle: both of ranks and teacher_logits"),
        (lambda: listmle(T23, teacher_logits=T23, depth=0), "listmle: depth is 0"),
        (lambda: listmle(T23, ranks=torch.tensor([[0], [3]])), "listmle: ranks holds class ids from 0 to 3"),
        (lambda: listmle(T23, ranks=T23), "listmle: ranks is torch.float32"),
        (lambda: pld(T23, T23, Y2, temperature=0.0), "pld: temperature is 0.0"),
        (lambda: pld(T23, T23, Y2[:1]), "pld: labels has shape"),
        (lambda: grkd_rebalanced(T23, T23, G3[:2], MASS), r"grkd-rebalanced: class_groups has shape \(2,\)"),
        (lambda: grkd_rebalanced(T23, T23, G3 - 1, MASS), "class_groups holds -1.*Give every class a group"),
        (lambda: grkd_rebalanced(T23, T23, G3 + 1, MASS), r"group_mass has shape \(2,\) for 3 groups"),
        (lambda: grkd_rebalanced(T23, T23, G3.float(), MASS), "grkd-rebalanced: class_groups is torch.float32"),
        (lambda: grkd_rebalanced(T23, T23, G3, MASS[None]), r"group_mass has shape \(1, 2\)"),
        (lambda: grkd_rebalanced(T23, T23, G3, MASS * 0), r"grkd-rebalanced: group_mass\[0\] is 0.0"),
        (lambda: grkd_rebalanced(T23, T23, G3, MASS, temperature=-1.0), "grkd-rebalanced: temperature is -1.0"),
        (lambda: grkd_rebalanced(T23, T23, G3, MASS, reduction="mean"), "Unknown reduction 'mean'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UsageError, match=message):
        call()
