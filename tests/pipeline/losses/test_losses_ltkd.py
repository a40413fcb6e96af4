"""LTKD against the formula, computed group by group in float64 with numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdpipe.pipeline.losses import group_masses, kd, ltkd
from kdpipe.pipeline.losses.ltkd import decompose, partition_classes, rebalance
from kdpipe.stores.errors import UsageError

quick = settings(deadline=None, max_examples=25)

GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
TEACHER = torch.tensor([[4.0, 1, 2, 0, -1, 0.5], [1, 3, 0, 2, 0, -2]], dtype=torch.float64)
STUDENT = torch.tensor([[2.0, 0, 1, 1, 0, 0], [0, 1, 1, 0, -1, 0]], dtype=torch.float64)


def softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def reference(student, teacher, groups, temperature, alpha=1.0, beta=1.0, mass=None, scale=1.0):
    """The formulas of the paper, written out; ``scale`` is the common factor of s_G."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    present = np.unique(groups)
    p_group = np.stack([p[:, groups == g].sum(1) for g in present], 1)
    q_group = np.stack([q[:, groups == g].sum(1) for g in present], 1)
    mass = p_group.sum(0) if mass is None else np.asarray(mass)[present]
    s = scale * (len(p) / len(present)) / mass
    phat = s * p_group / (s * p_group).sum(1, keepdims=True)
    cross = (phat * np.log(phat / q_group)).sum(1).mean()
    within = 0.0
    for i, g in enumerate(present):
        p_in, q_in = p[:, groups == g] / p_group[:, [i]], q[:, groups == g] / q_group[:, [i]]
        within += (p_in * np.log(p_in / q_in)).sum(1).mean()
    return temperature**2 * (alpha * cross + beta * within)


def random_case(batch, classes, num_groups, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, (2, batch, classes))
    return student, teacher, rng.permutation(np.arange(classes) % num_groups)


def evaluate(student, teacher, groups, **arguments):
    return ltkd(torch.tensor(student), torch.tensor(teacher), torch.tensor(groups), **arguments).item()


cases = st.builds(
    random_case, st.integers(1, 5), st.integers(1, 9), st.integers(1, 5), st.integers(0, 9999), st.floats(0.1, 6)
)


# golden values


def test_golden_terms():
    terms = decompose(STUDENT, TEACHER, partition_classes(GROUPS))
    cross = (terms.log_teacher.exp() * (terms.log_teacher - terms.log_student)).sum(1)
    mass = terms.log_teacher.exp().sum(0)
    phat = rebalance(terms.log_teacher, mass.log()).exp()
    exactly = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(cross, [0.2265902654, 0.1832480730], **exactly)
    np.testing.assert_allclose(
        terms.within,
        [[0.0309147863, 0.3278133255, 0.2180956169], [0.0671307545, 0.8287249104, 0.8287249104]],
        **exactly,
    )
    np.testing.assert_allclose(mass, [1.5517321813, 0.3833711999, 0.0648966188], **exactly)
    np.testing.assert_allclose(group_masses(TEACHER, GROUPS, 1.0), mass, **exactly)
    np.testing.assert_allclose(
        phat,
        [[0.4108983044, 0.2434252273, 0.3456764683], [0.2717776789, 0.4046845145, 0.3235378066]],
        **exactly,
    )


def test_golden_losses():
    cross, within = 0.1297998009, 1.1507021520
    for alpha, beta in ((1, 0), (0, 1), (1, 1), (0.5, 2)):
        loss = ltkd(STUDENT, TEACHER, GROUPS, alpha=alpha, beta=beta, temperature=1)
        assert loss.item() == pytest.approx(alpha * cross + beta * within, abs=1e-9 * (alpha + beta))


# against the formula


@quick
@given(case=cases, temperature=st.floats(0.5, 6), alpha=st.floats(0, 3), beta=st.floats(0, 3))
def test_loss_is_the_formula(case, temperature, alpha, beta):
    expected = reference(*case, temperature=temperature, alpha=alpha, beta=beta)
    got = evaluate(*case, temperature=temperature, alpha=alpha, beta=beta)
    assert got == pytest.approx(expected, rel=1e-8, abs=1e-8)


@quick
@given(case=cases, factor=st.floats(1e-3, 1e3))
def test_common_factor_of_the_group_weights_cancels(case, factor):
    mass = torch.rand(int(case[2].max()) + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    expected = reference(*case, temperature=4.0, mass=mass.numpy(), scale=factor)
    assert evaluate(*case, group_mass=mass) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert evaluate(*case, group_mass=mass * factor) == pytest.approx(expected, rel=1e-8, abs=1e-8)


# properties


@quick
@given(case=cases, temperature=st.floats(0.5, 6))
def test_decomposition_adds_up_to_kd(case, temperature):
    student, teacher, groups = map(torch.tensor, case)
    terms = decompose(student / temperature, teacher / temperature, partition_classes(groups))
    mass = terms.log_teacher.exp()
    whole = (mass * (terms.log_teacher - terms.log_student)).sum(1) + (mass * terms.within).sum(1)
    expected = kd(student, teacher, temperature=temperature).item()
    assert temperature**2 * whole.mean().item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_one_sample_is_rebalanced_to_uniform():
    student, teacher, groups = map(torch.tensor, random_case(1, 7, 3))
    terms = decompose(student, teacher, partition_classes(groups))
    phat = rebalance(terms.log_teacher, terms.log_teacher.logsumexp(0)).exp()
    np.testing.assert_allclose(phat, np.full((1, 3), 1 / 3), rtol=1e-12)
    cross = ltkd(student, teacher, groups, beta=0, temperature=1).item()
    assert cross == pytest.approx(-math.log(3) - terms.log_student.mean().item(), abs=1e-12)


def test_singleton_groups_have_no_within_loss():
    student, teacher, _ = random_case(4, 6, 1)
    assert evaluate(student, teacher, np.arange(6), alpha=0) == 0
    uniform_over_batch = evaluate(student, teacher, np.arange(6), beta=0)
    assert uniform_over_batch == pytest.approx(reference(student, teacher, np.arange(6), 4.0, beta=0), rel=1e-10)


def test_a_single_group_has_no_cross_loss_and_is_kd():
    student, teacher, groups = random_case(4, 6, 1)
    assert evaluate(student, teacher, groups, beta=0) == 0
    whole = kd(torch.tensor(student), torch.tensor(teacher)).item()
    assert evaluate(student, teacher, groups) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("group_mass", [None, torch.tensor([3.0, 9.0, 1.0, 0.0, 2.0, 0.0])])
def test_groups_without_classes_play_no_part(group_mass):
    student, teacher, groups = random_case(4, 9, 3)
    spread = np.array([0, 2, 4])[groups]
    kept = None if group_mass is None else group_mass[[0, 2, 4]]
    expected = evaluate(student, teacher, groups, group_mass=kept)
    assert evaluate(student, teacher, spread, group_mass=group_mass) == pytest.approx(expected, rel=1e-12)
    masses = group_masses(torch.tensor(teacher), torch.tensor(spread), 4.0)
    assert masses.shape == (5,)
    assert masses[1] == masses[3] == 0


def test_depends_on_the_batch_unless_calibrated():
    student, teacher, groups = random_case(8, 6, 3)
    mass = group_masses(torch.tensor(teacher), torch.tensor(groups), 4.0)
    for group_mass, same in ((None, False), (mass, True)):
        whole = evaluate(student, teacher, groups, group_mass=group_mass)
        halves = [evaluate(student[i::2], teacher[i::2], groups, group_mass=group_mass) for i in (0, 1)]
        assert (whole == pytest.approx(sum(halves) / 2, rel=1e-9)) is same


def test_the_batchs_own_mass_as_calibration_changes_nothing():
    student, teacher, groups = random_case(8, 6, 3)
    mass = group_masses(torch.tensor(teacher), torch.tensor(groups), 2.0)
    calibrated = evaluate(student, teacher, groups, temperature=2.0, group_mass=mass)
    assert calibrated == pytest.approx(evaluate(student, teacher, groups, temperature=2.0), rel=1e-12)


def test_order_of_classes_and_names_of_groups_do_not_matter():
    student, teacher, groups = random_case(4, 9, 3)
    order = np.random.default_rng(1).permutation(9)
    expected = evaluate(student, teacher, groups)
    assert evaluate(student[:, order], teacher[:, order], groups[order]) == pytest.approx(expected, rel=1e-12)
    assert evaluate(student, teacher, 2 - groups) == pytest.approx(expected, rel=1e-12)
    assert evaluate(student, teacher, groups.astype(np.uint8)) == expected


def test_temperature_is_that_of_the_logits_times_its_square():
    student, teacher, groups = random_case(4, 9, 3)
    expected = 9 * evaluate(student / 3, teacher / 3, groups, temperature=1)
    assert evaluate(student, teacher, groups, temperature=3) == pytest.approx(expected, rel=1e-12)


def test_a_group_the_teacher_gives_almost_nothing_stays_finite():
    teacher = torch.tensor([[0.0, 0, -4000, -4001]]).repeat(2, 1)
    student = torch.zeros(2, 4, requires_grad=True)
    loss = ltkd(student, teacher, torch.tensor([0, 0, 1, 1]), temperature=1)
    (gradient,) = torch.autograd.grad(loss, student)
    p = 1 / (1 + math.exp(-1))
    within = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert loss.item() == pytest.approx(within, abs=1e-4)  # both groups are half of phat
    assert torch.isfinite(gradient).all()


# group masses


def test_group_masses_stream():
    _, teacher, groups = random_case(11, 6, 3)
    teacher, groups = torch.tensor(teacher), torch.tensor(groups)
    whole = group_masses(teacher, groups, 4.0)
    parts = sum(group_masses(part, groups, 4.0) for part in teacher.split(4))
    assert whole.dtype == torch.float64
    assert group_masses(teacher.half(), groups, 4.0).dtype == torch.float64
    assert whole.sum().item() == pytest.approx(11, rel=1e-12)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    expected = [softmax(teacher.numpy() / 4)[:, groups.numpy() == g].sum() for g in range(3)]
    np.testing.assert_allclose(whole, expected, rtol=1e-12)


def test_groups_changed_in_place_are_seen():
    student, teacher, groups = map(torch.tensor, random_case(3, 6, 3))
    before = ltkd(student, teacher, groups).item()
    mass = torch.ones(3)
    calibrated = ltkd(student, teacher, groups, group_mass=mass).item()
    groups.copy_(groups.flip(0).roll(1))
    mass[0] = 9
    assert ltkd(student, teacher, groups).item() == ltkd(student, teacher, groups.clone()).item() != before
    again = ltkd(student, teacher, groups, group_mass=mass).item()
    assert again == ltkd(student, teacher, groups.clone(), group_mass=mass.clone()).item() != calibrated


def test_first_use_in_inference_mode_leaves_training_alone():
    student, teacher, groups = map(torch.tensor, random_case(3, 6, 3))
    with torch.inference_mode():
        ltkd(student, teacher, groups)
        ltkd(student, teacher, groups.clone())
    ltkd(student.requires_grad_(), teacher, groups).backward()
    assert student.grad is not None


# autograd and precision


@pytest.mark.parametrize("group_mass", [None, torch.tensor([5.0, 2.0, 0.5])])
def test_gradcheck_and_teacher_detached(group_mass):
    student, teacher, groups = map(torch.tensor, random_case(3, 6, 3))
    teacher.requires_grad_()
    arguments = {"alpha": 0.7, "beta": 1.3, "temperature": 2.5, "group_mass": group_mass}
    assert torch.autograd.gradcheck(lambda z: ltkd(z, teacher, groups, **arguments), student.requires_grad_())
    ltkd(student, teacher, groups, **arguments).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(dtype, autocast):
    student, teacher, groups = map(torch.tensor, random_case(4, 12, 3))
    student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    exact = student.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(ltkd(exact, teacher.float(), groups), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = ltkd(student, teacher, groups)
        masses = group_masses(teacher, groups, 4.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32
    assert loss == ltkd(exact, teacher.float(), groups)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected.to(dtype))
    assert torch.equal(masses, group_masses(teacher.float(), groups, 4.0))


def test_float64_is_kept():
    assert ltkd(STUDENT, TEACHER.half(), GROUPS, group_mass=torch.ones(3)).dtype == torch.float64
    assert ltkd(STUDENT.float(), TEACHER, GROUPS, group_mass=torch.ones(3).double()).dtype == torch.float32


# errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_logits": TEACHER[:1]}, "teacher_logits has shape"),
        ({"student_logits": STUDENT[0]}, "student_logits has shape"),
        ({"class_groups": GROUPS[:5]}, "the logits have 6 classes"),
        ({"class_groups": GROUPS[None]}, "class_groups has shape"),
        ({"class_groups": GROUPS[:0]}, "class_groups has shape"),
        ({"class_groups": GROUPS.float()}, "Give integers"),
        ({"class_groups": GROUPS - 1}, "class_groups holds -1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"group_mass": torch.ones(2)}, "group_mass has shape"),
        ({"group_mass": torch.ones(3, 1)}, "group_mass has shape"),
        ({"group_mass": torch.tensor([1.0, 0.0, 1.0])}, r"group_mass\[1\] is 0.0"),
        ({"group_mass": torch.tensor([1.0, 1.0, -2.0])}, r"group_mass\[2\] is -2.0"),
        ({"group_mass": torch.tensor([math.nan, 1.0, 1.0])}, r"group_mass\[0\] is nan"),
    ],
)
def test_errors(changes, message):
    arguments = {"student_logits": STUDENT, "teacher_logits": TEACHER, "class_groups": GROUPS} | changes
    with pytest.raises(UsageError, match=message):
        ltkd(**arguments)


@pytest.mark.parametrize(
    ("logits", "groups", "temperature"), [(TEACHER, GROUPS[:5], 4.0), (TEACHER, GROUPS, 0.0), (TEACHER[0], GROUPS, 4.0)]
)
def test_group_masses_errors(logits, groups, temperature):
    with pytest.raises(UsageError, match="group_masses: "):
        group_masses(logits, groups, temperature)
