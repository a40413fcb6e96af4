"""The teacher-free losses for long tails, and comparative distillation, against their formulas in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.losses import balanced_softmax, ckd, logit_adjustment
from kdpipe.stores.errors import UsageError

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = np.array([500, 120, 30, 8, 2, 1])


def case(seed=0, batch=9, classes=6, scale=2.0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, (2, batch, classes))
    return student, teacher, rng.integers(0, classes, batch)


def value(function, *arrays, **options):
    return function(*(torch.tensor(array) for array in arrays), **options).item()


# balanced softmax and logit adjustment


@given(seed=SEEDS, tau=st.floats(0, 3))
def test_logit_adjustment_is_its_formula(seed, tau):
    student, _, labels = case(seed)
    prior = COUNTS / COUNTS.sum()
    total = 0.0
    for z, y in zip(student, labels, strict=True):
        weights = [p**tau * math.exp(score) for p, score in zip(prior, z, strict=True)]
        total -= math.log(weights[y] / sum(weights))
    assert value(logit_adjustment, student, labels, COUNTS, tau=tau) == pytest.approx(total / 9, rel=1e-10)


@given(seed=SEEDS)
def test_balanced_softmax_is_its_formula(seed):
    student, _, labels = case(seed)
    total = 0.0
    for z, y in zip(student, labels, strict=True):
        weights = [n * math.exp(score) for n, score in zip(COUNTS, z, strict=True)]
        total -= math.log(weights[y] / sum(weights))
    got = value(balanced_softmax, student, labels, COUNTS)
    assert got == pytest.approx(total / 9, rel=1e-10)
    assert value(logit_adjustment, student, labels, COUNTS) == pytest.approx(got, rel=1e-12)
    assert value(balanced_softmax, student, labels, 17 * COUNTS) == pytest.approx(got, rel=1e-12)


@pytest.mark.parametrize("counts", [np.full(6, 40), COUNTS])
def test_without_adjustment_it_is_cross_entropy(counts):
    student, _, labels = case()
    expected = F.cross_entropy(torch.tensor(student), torch.tensor(labels)).item()
    assert value(logit_adjustment, student, labels, counts, tau=0.0) == pytest.approx(expected, rel=1e-12)
    assert (value(balanced_softmax, student, labels, counts) == pytest.approx(expected)) is bool(counts[0] == 40)


def test_a_class_without_samples_counts_as_one():
    student, _, _ = case()
    labels = np.zeros(9, np.int64)
    absent = COUNTS - (COUNTS == 1)
    assert value(balanced_softmax, student, labels, absent) == value(balanced_softmax, student, labels, COUNTS)
    assert math.isfinite(value(balanced_softmax, student, labels + 5, absent))


# CKD


@given(seed=SEEDS, size=st.integers(1, 4), class_weight=st.floats(0, 3))
def test_ckd_is_its_formula(seed, size, class_weight):
    student, teacher, labels = case(seed)
    num_sets = 9 // size
    sets = [range(s * size, (s + 1) * size) for s in range(num_sets)]
    truth = np.eye(6)[labels]
    relation = label = 0.0
    for number, first in enumerate(sets):
        second = sets[(number + 1) % num_sets]
        s, t, y = (
            sum(x[i] for i in first) / size - sum(x[i] for i in second) / size for x in (student, teacher, truth)
        )
        relation += sum((s - t) ** 2) / (6 * num_sets)
        label += sum((s - y) ** 2) / (6 * num_sets)
    got = value(ckd, student, teacher, labels, size=size, class_weight=class_weight)
    assert got == pytest.approx(relation + class_weight * label, rel=1e-10)


def test_ckd_does_not_see_what_all_samples_share():
    student, teacher, labels = case()
    offset = np.random.default_rng(5).normal(0, 9, (1, 6))
    got = value(ckd, student + offset, teacher - offset, labels)
    assert got == pytest.approx(value(ckd, student, teacher, labels), rel=1e-9)
    assert value(ckd, teacher + offset, teacher, labels, class_weight=0.0) == pytest.approx(0, abs=1e-12)


# errors

T23, Y2, N3 = torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logit_adjustment(T23, Y2, N3, tau=-1.0), "logit-adjustment: tau is -1.0"),
        (lambda: logit_adjustment(T23, Y2, -N3), "logit-adjustment: class_counts holds -1.0"),
        (lambda: balanced_softmax(T23, Y2, N3[:2]), r"balanced-softmax: class_counts has shape \(2,\)"),
        (lambda: balanced_softmax(T23, Y2 + 2, N3), "balanced-softmax: labels holds class ids from 2 to 3"),
        (lambda: balanced_softmax(T23.long(), Y2, N3), "balanced-softmax: student_logits is torch.int64"),
        (lambda: ckd(T23, T23, Y2, size=2), "ckd: the batch holds 2 samples. Two sets of size 2 need 4"),
        (lambda: ckd(T23, T23, Y2, size=0), "ckd: size is 0"),
        (lambda: ckd(T23, T23, Y2, size=1, class_weight=-1.0), "ckd: class_weight is -1.0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UsageError, match=message):
        call()
