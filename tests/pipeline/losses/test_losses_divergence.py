"""The compiled KD and LTKD against their formulas in float64, which take the other path."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.losses import divergence, kd, ltkd
from kdpipe.stores.errors import UsageError

pytest.importorskip("numba")


def case(batch, classes, spread, seed=0):
    generator = np.random.default_rng(seed)
    student, teacher = (torch.from_numpy(generator.normal(0, spread, (batch, classes))).float() for _ in range(2))
    return student, teacher, torch.from_numpy(generator.integers(0, 4, classes))


def both(loss, student):
    """Value and gradient, by the compiled kernel and by the formulas."""
    results: list[tuple[float, torch.Tensor]] = []
    for leaf in (student.clone().requires_grad_(), student.double().requires_grad_()):
        value = loss(leaf)
        value.backward()
        assert value.dtype == (torch.float64 if leaf.dtype == torch.float64 else torch.float32)
        results.append((float(value.detach()), leaf.grad.double()))
    return results


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 70)),
    spread=st.sampled_from([1e-3, 1.0, 10.0, 300.0]),
    temperature=st.floats(0.5, 8),
    alpha=st.floats(0, 2),
    beta=st.floats(0, 2),
    calibrated=st.booleans(),
)
def test_they_are_the_formulas(shape, spread, temperature, alpha, beta, calibrated):
    student, teacher, groups = case(shape[0], shape[1], spread)
    mass = torch.tensor([0.5, 0.3, 0.1, 0.1]) if calibrated else None

    def kd_loss(logits):
        return kd(logits, teacher.to(logits), temperature=temperature)

    def ltkd_loss(logits):
        return ltkd(
            logits, teacher.to(logits), groups, alpha=alpha, beta=beta, temperature=temperature, group_mass=mass
        )

    for loss in (kd_loss, ltkd_loss):
        (value, gradient), (expected, exact) = both(loss, student)
        assert value == pytest.approx(expected, rel=2e-5, abs=2e-5 * temperature**2)
        torch.testing.assert_close(gradient, exact, rtol=2e-4, atol=2e-6 * temperature)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("column", [0, 7, 30])
def test_a_student_that_diverged_shows(bad, column):
    student, teacher, groups = case(3, 31, 1.0)
    student[1, column] = bad
    assert not torch.isfinite(kd(student, teacher))
    assert not torch.isfinite(ltkd(student, teacher, groups))


def test_large_batches_are_shared_among_threads_and_give_the_same():
    student, teacher, groups = case(300, 400, 2.0)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(float(ltkd(student, teacher, groups)))
    torch.set_num_threads(before)
    assert results[0] == results[1]


def test_in_a_compiled_graph_the_same():
    student, teacher, _ = case(4, 60, 1.0)
    results = []
    for function in (kd, torch.compile(kd, backend="aot_eager", fullgraph=True)):
        leaf = student.clone().requires_grad_()
        function(leaf, teacher).backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results)


def test_half_precision_gets_its_gradient_in_half_precision():
    student, teacher, _ = case(4, 9, 1.0)
    leaf = student.half().requires_grad_()
    loss = kd(leaf, teacher)
    loss.backward()
    assert (loss.dtype, leaf.grad.dtype) == (torch.float32, torch.float16)  # pyright: ignore


def test_there_is_no_second_derivative_to_be_taken_for_zero():
    student, teacher, _ = case(4, 9, 1.0)
    with pytest.raises(UsageError, match="no second derivative"):
        torch.autograd.grad(kd(student.requires_grad_(), teacher), student, create_graph=True)


def test_without_numba_the_formulas_are_used(monkeypatch):
    student, teacher, groups = case(8, 40, 2.0)
    compiled = [kd(student, teacher), ltkd(student, teacher, groups)]
    monkeypatch.setattr(divergence, "HAS_NUMBA", False)
    torch.testing.assert_close([kd(student, teacher), ltkd(student, teacher, groups)], compiled)
