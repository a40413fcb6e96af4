"""GRKD against the formula, computed pair by pair in float64 with numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kdpipe.pipeline.losses import grkd, label_pair_conflict
from kdpipe.pipeline.losses import pairs_torch as pairs_module
from kdpipe.stores.errors import UsageError
from torch.utils._python_dispatch import TorchDispatchMode

quick = settings(deadline=None, max_examples=25)


def reference(student, above, tau=1.0):
    """Sum over pairs and gradient per sample; above[b, i, j] says the teacher puts i above j."""
    gap = (student[:, :, None] - student[:, None, :]) / tau
    losses = np.where(above, np.logaddexp(0, -gap), 0).sum((1, 2))
    push = np.where(above, np.exp(-np.logaddexp(0, gap)), 0) / tau
    return losses, push.sum(1) - push.sum(2)


def above_from_logits(teacher):
    return teacher[:, :, None] > teacher[:, None, :]


def above_from_ranks(ranks, num_classes):
    above = np.zeros((len(ranks), num_classes, num_classes), bool)
    for row, best_first in zip(above, ranks, strict=True):
        left = set(range(num_classes))
        for i in best_first.tolist():
            left.discard(i)
            row[i, list(left)] = True
    return above


def evaluate(student, **arguments):
    z = torch.tensor(student, requires_grad=True)
    loss = grkd(z, **arguments)
    return loss.item(), torch.autograd.grad(loss, z)[0].numpy()


REALS = st.floats(-12, 12, width=32)


def scores(elements=REALS):
    shape = st.tuples(st.integers(1, 4), st.integers(2, 9))
    return shape.flatmap(lambda s: st.tuples(*[hnp.arrays(np.float64, s, elements=elements)] * 2))


def random_case(batch, classes, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (batch, classes)), rng.normal(0, scale, (batch, classes))


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(pairs_module, "BLOCK_CPU", 1)
    return request.param


# golden values


def test_golden_three_classes():
    student = torch.tensor([[2.0, 1, 0]], dtype=torch.float64)
    teacher = torch.tensor([[3.0, 1, 0]], dtype=torch.float64)
    loss = grkd(student, teacher_logits=teacher, reduction="sum")
    assert loss.item() == pytest.approx(0.7534513861, abs=1e-9)
    assert grkd(student, ranks=torch.tensor([[0, 1, 2]]), reduction="sum").item() == loss.item()
    assert grkd(student, teacher_logits=teacher).item() == pytest.approx(0.7534513861 / 3, abs=1e-9)


def test_golden_four_classes_and_gradient():
    loss, gradient = evaluate(
        np.zeros((1, 4)), teacher_logits=torch.tensor([[4.0, 3, 2, 1]], dtype=torch.float64), reduction="sum"
    )
    assert loss == pytest.approx(4.1588830834, abs=1e-9)
    np.testing.assert_allclose(gradient, [[-1.5, -0.5, 0.5, 1.5]], atol=1e-12)


# against the formula


@quick
@given(case=scores(), tau=st.floats(0.3, 5))
def test_loss_and_gradient_are_the_formula(case, tau):
    student, teacher = case
    losses, gradient = reference(student, above_from_logits(teacher), tau)
    got, got_gradient = evaluate(student, teacher_logits=torch.tensor(teacher), tau=tau, reduction="sum")
    assert got == pytest.approx(losses.mean(), abs=1e-9)
    np.testing.assert_allclose(got_gradient, gradient / len(student), atol=1e-9)


@quick
@given(case=scores(st.integers(-2, 2).map(float)))
def test_ties_drop_out(case):
    student, teacher = case
    above = above_from_logits(teacher)
    losses, gradient = reference(student, above)
    count = np.maximum(above.sum((1, 2)), 1)
    got, got_gradient = evaluate(student, teacher_logits=torch.tensor(teacher))
    assert got == pytest.approx((losses / count).mean(), abs=1e-9)
    np.testing.assert_allclose(got_gradient, gradient / count[:, None] / len(student), atol=1e-9)


def test_all_tied_sample_counts_as_zero():
    student = np.array([[1.0, 2, 3], [3.0, 1, 2]])
    teacher = torch.tensor([[5.0, 5, 5], [2.0, 1, 0]], dtype=torch.float64)
    alone, _ = evaluate(student[1:], teacher_logits=teacher[1:])
    both, gradient = evaluate(student, teacher_logits=teacher)
    assert both == pytest.approx(alone / 2, abs=1e-12)
    assert not gradient[0].any()


@pytest.mark.parametrize(("classes", "depth"), [(1, 1), (2, 1), (7, 1), (7, 3), (7, 6), (7, 7), (230, 5), (230, 120)])
@pytest.mark.parametrize("reduction", ["sum", "pair_mean"])
def test_cut_ranks(classes, depth, reduction, blocks):
    student, teacher = random_case(3, classes, scale=5)
    ranks = np.argsort(-teacher, axis=1)[:, :depth]
    above = above_from_ranks(ranks, classes)
    losses, gradient = reference(student, above, 0.7)
    count = max(int(above[0].sum()), 1) if reduction == "pair_mean" else 1
    got, got_gradient = evaluate(student, ranks=torch.tensor(ranks), tau=0.7, reduction=reduction)
    assert got == pytest.approx(losses.mean() / count, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(got_gradient, gradient / count / 3, atol=1e-10)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_many_classes_with_and_without_ties(decimals, blocks):
    student, teacher = random_case(2, 230, scale=5)
    teacher = teacher.round(decimals)
    losses, gradient = reference(student, above_from_logits(teacher))
    got, got_gradient = evaluate(student, teacher_logits=torch.tensor(teacher), reduction="sum")
    assert got == pytest.approx(losses.mean(), rel=1e-12)
    np.testing.assert_allclose(got_gradient, gradient / 2, atol=1e-10)


def test_untied_teacher_and_its_ranks_agree_exactly():
    student, teacher = map(torch.tensor, random_case(5, 40))
    ranks = teacher.argsort(1, descending=True)
    assert grkd(student, ranks=ranks) == grkd(student, teacher_logits=teacher)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.int64])
def test_any_integer_ranks(dtype):
    student, teacher = map(torch.tensor, random_case(4, 200))
    ranks = teacher.argsort(1, descending=True)
    for depth in (200, 30):
        assert grkd(student, ranks=ranks[:, :depth].to(dtype)) == grkd(student, ranks=ranks[:, :depth])


def test_ties_are_those_of_the_teacher_as_given():
    teacher = torch.tensor([[1.0, 1.0 + 1e-12, 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 3)
    assert grkd(student, teacher_logits=teacher, reduction="sum").item() == pytest.approx(3 * math.log(2), rel=1e-6)
    rounded = grkd(student, teacher_logits=teacher.half(), reduction="sum")
    assert rounded.item() == pytest.approx(2 * math.log(2), rel=1e-6)


# properties


@quick
@given(case=scores(st.integers(-200, 200).map(lambda n: n / 16)), slope=st.floats(0.1, 9), offset=st.floats(-5, 5))
def test_only_the_teachers_order_counts(case, slope, offset):
    student, teacher = map(torch.tensor, case)
    base = grkd(student, teacher_logits=teacher)
    for mapped in (teacher * slope + offset, torch.exp(teacher), teacher**3 + teacher):
        assert grkd(student, teacher_logits=mapped).item() == pytest.approx(base.item(), abs=1e-12)


@quick
@given(case=scores(), shift=st.floats(-50, 50), tau=st.floats(0.2, 8))
def test_shift_and_tau_identities(case, shift, tau):
    student, teacher = map(torch.tensor, case)
    base = grkd(student, teacher_logits=teacher, tau=tau, reduction="sum").item()
    shifted = grkd(student + shift, teacher_logits=teacher, tau=tau, reduction="sum").item()
    assert shifted == pytest.approx(base, abs=1e-8)
    assert grkd(student / tau, teacher_logits=teacher, reduction="sum").item() == pytest.approx(base, abs=1e-9)


@pytest.mark.parametrize(("classes", "num_pairs"), [(2, 1), (100, 4950), (1000, 499500)])
def test_constant_student_pays_log_2_per_pair(classes, num_pairs):
    ranks = torch.randperm(classes, generator=torch.Generator().manual_seed(0))[None]
    student = torch.full((1, classes), 3.0, dtype=torch.float64)
    assert grkd(student, ranks=ranks, reduction="sum").item() == pytest.approx(num_pairs * math.log(2), rel=1e-12)
    assert grkd(student, ranks=ranks).item() == pytest.approx(math.log(2), rel=1e-12)


@quick
@given(case=scores(), tau=st.floats(0.3, 4))
def test_gradient_at_zero_is_the_centred_borda_rank(case, tau):
    above = above_from_logits(case[1])
    borda = (above.sum(1) - above.sum(2)) / (2 * tau)
    arguments = {"teacher_logits": torch.tensor(case[1]), "tau": tau, "reduction": "sum"}
    _, gradient = evaluate(np.zeros_like(case[0]), **arguments)
    np.testing.assert_allclose(gradient * len(borda), borda, atol=1e-10)


@quick
@given(case=scores())
def test_gradient_components_sum_to_zero(case):
    _, gradient = evaluate(case[0], teacher_logits=torch.tensor(case[1]), reduction="sum")
    np.testing.assert_allclose(gradient.sum(1), 0, atol=1e-10)


@quick
@given(case=scores(), share=st.floats(0, 1))
def test_convex_along_a_segment(case, share):
    start, teacher = map(torch.tensor, case)
    stop = start.flip(1) * 1.5

    def loss(z):
        return grkd(z, teacher_logits=teacher).item()

    assert loss(share * start + (1 - share) * stop) <= share * loss(start) + (1 - share) * loss(stop) + 1e-10


def test_infimum_is_approached_by_growing_gaps():
    ranks = torch.tensor([[2, 0, 1]])
    direction = torch.tensor([[1.0, 0, 2]], dtype=torch.float64)
    losses = [grkd(direction * scale, ranks=ranks).item() for scale in (0, 1, 5, 20, 40)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-12


@pytest.mark.parametrize("gap", [1e3, 1e30])
def test_far_apart_students_stay_finite(gap):
    z = torch.tensor([[0.0, gap]], requires_grad=True)
    loss = grkd(z, ranks=torch.tensor([[0, 1]]))
    assert loss.item() == pytest.approx(gap)
    assert torch.autograd.grad(loss, z)[0].tolist() == [[-1, 1]]


# autograd and precision


@pytest.mark.parametrize("reduction", ["sum", "pair_mean"])
@pytest.mark.parametrize("depth", [None, 3, 6])
def test_gradcheck(reduction, depth):
    student, teacher = map(torch.tensor, random_case(3, 6))
    teacher = teacher.round()
    source = {"teacher_logits": teacher} if depth is None else {"ranks": teacher.argsort(1)[:, :depth]}
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 2.5 * grkd(z, tau=0.8, reduction=reduction, **source), student)


def test_upstream_gradient_scales():
    student, teacher = random_case(3, 8)
    z = torch.tensor(student, requires_grad=True)
    (scaled,) = torch.autograd.grad((-7 * grkd(z, teacher_logits=torch.tensor(teacher))) * 0.5, z)
    _, gradient = evaluate(student, teacher_logits=torch.tensor(teacher))
    np.testing.assert_allclose(scaled.numpy(), -3.5 * gradient, atol=1e-14)


def test_no_gradient_into_the_teacher_and_none_needed():
    student, teacher = map(torch.tensor, random_case(2, 5))
    teacher.requires_grad_()
    assert not grkd(student, teacher_logits=teacher).requires_grad
    grkd(student.requires_grad_(), teacher_logits=teacher).backward()
    assert teacher.grad is None


def test_second_derivative_is_refused_not_wrong():
    z = torch.zeros(1, 3, requires_grad=True)
    with pytest.raises(UsageError, match="no second derivative"):
        torch.autograd.grad(grkd(z, ranks=torch.tensor([[0, 1, 2]])), z, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(dtype, autocast):
    student, teacher = (torch.tensor(x).to(dtype) for x in random_case(4, 50))
    student.requires_grad_()
    exact = student.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(grkd(exact, teacher_logits=teacher, tau=0.3), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = grkd(student, teacher_logits=teacher, tau=0.3)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32
    assert loss == grkd(exact, teacher_logits=teacher, tau=0.3)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected.to(dtype))


def test_float32_is_close_to_float64():
    student, teacher = map(torch.tensor, random_case(2, 1000))
    ranks = teacher.argsort(1, descending=True)
    single = grkd(student.float(), ranks=ranks)
    assert single.dtype == torch.float32
    assert grkd(student, ranks=ranks).dtype == torch.float64
    assert single.item() == pytest.approx(grkd(student, ranks=ranks).item(), rel=2e-6)


class LargestTensor(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_memory_is_not_quadratic_in_the_classes(monkeypatch):
    monkeypatch.setattr(pairs_module, "BLOCK_CPU", 1)
    batch, classes = 3, 300
    student, teacher = (torch.tensor(x).float() for x in random_case(batch, classes))
    for ranks, logits in ((None, teacher.round()), (teacher.argsort(1), None)):
        with LargestTensor() as seen:
            grkd(student, ranks=ranks, teacher_logits=logits)
        assert batch * classes <= seen.largest <= 2 * batch * classes


# the label-pair conflict


def test_label_pair_conflict_counts_the_classes_above_the_label():
    teacher = torch.tensor([[3.0, 1, 2], [0.0, 5, 5]])
    labels = torch.tensor([1, 2])
    assert label_pair_conflict(teacher, labels).item() == 1.0  # 2 above class 1; a tie is not above
    ranks = torch.tensor([[0, 2, 1], [1, 2, 0]], dtype=torch.uint8)
    assert label_pair_conflict(ranks, labels).item() == 1.5
    assert label_pair_conflict(ranks[:, :2], labels.to(torch.uint8)).item() == 1.5  # below the 2 ranked: 2
    assert label_pair_conflict(ranks[:, :1].to(torch.uint16), torch.tensor([0, 1])).item() == 0.0


@pytest.mark.parametrize(
    ("teacher", "labels"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(2, 3), torch.zeros(2)),
    ],
)
def test_label_pair_conflict_refuses(teacher, labels):
    with pytest.raises(UsageError, match="label_pair_conflict"):
        label_pair_conflict(teacher, labels)


# errors

RANKS = torch.tensor([[0, 1, 2], [2, 1, 0]])


@pytest.mark.parametrize(
    ("student", "arguments", "message"),
    [
        (torch.zeros(2, 3), {}, "neither of ranks and teacher_logits"),
        (torch.zeros(2, 3), {"ranks": RANKS, "teacher_logits": torch.zeros(2, 3)}, "both of ranks"),
        (torch.zeros(2, 3), {"ranks": RANKS, "tau": 0.0}, "tau is 0.0"),
        (torch.zeros(2, 3), {"ranks": RANKS, "tau": math.nan}, "tau is nan"),
        (torch.zeros(2, 3), {"ranks": RANKS, "reduction": "summ"}, "Did you mean 'sum'"),
        (torch.zeros(2, 3), {"teacher_logits": torch.zeros(2, 4)}, "teacher_logits has shape"),
        (torch.zeros(3), {"ranks": RANKS}, "student_logits has shape"),
        (torch.zeros(0, 3), {"ranks": RANKS[:0]}, "student_logits has shape"),
        (torch.zeros(2, 3, dtype=torch.long), {"ranks": RANKS}, "floating-point"),
        (torch.zeros(2, 3), {"ranks": RANKS.float()}, "Give integers"),
        (torch.zeros(2, 3), {"ranks": RANKS > 1}, "Give integers"),
        (torch.zeros(2, 3), {"ranks": RANKS[:1]}, "ranks has shape"),
        (torch.zeros(2, 3), {"ranks": RANKS[:, :0]}, "ranks has shape"),
        (torch.zeros(2, 2), {"ranks": RANKS}, "ranks has shape"),
        (torch.zeros(2, 3), {"ranks": RANKS + 1}, "class ids from 1 to 3"),
        (torch.zeros(2, 3), {"ranks": RANKS - 1}, "class ids from -1 to 1"),
    ],
)
def test_errors(student, arguments, message):
    with pytest.raises(UsageError, match=message):
        grkd(student, **arguments)
