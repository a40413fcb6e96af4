"""The pairs' three kernels against float64 sums in numpy, pair by pair; and how torch meets the operator."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from kdpipe.pipeline.losses import grkd, pairs, pairs_torch
from kdpipe.pipeline.losses.grkd import order_with_ties

numba = pytest.importorskip("kdpipe.pipeline.losses.pairs_numba")


def reference(scores, num_above, ties):
    losses, gradient = np.zeros(len(scores)), np.zeros(scores.shape)
    for row, (values, kept) in enumerate(zip(scores, ties, strict=True)):
        for i in range(num_above):
            for j in range(i + 1, len(values)):
                if j - i > kept[j]:
                    weight = np.exp(-np.logaddexp(0, values[i] - values[j]))
                    losses[row] += np.logaddexp(0, values[j] - values[i])
                    gradient[row, j] += weight
                    gradient[row, i] -= weight
    return losses, gradient


def case(classes, tied, spread, seed=0):
    generator = np.random.default_rng(seed)
    scores = generator.uniform(-spread / 2, spread / 2, (3, classes))
    teacher = torch.from_numpy(generator.normal(0, 2, (3, classes)).round(0 if tied else 9))
    teacher[0] = 1.0 if tied else teacher[0]
    return scores, order_with_ties(teacher)[1] if tied else None


@pytest.fixture(params=["numba", "torch", "torch, small blocks"])
def kernel(request, monkeypatch):
    if request.param != "numba":
        monkeypatch.setattr(pairs, "_numba", lambda: None)
    if request.param == "torch, small blocks":
        monkeypatch.setattr(pairs_torch, "BLOCK_CPU", 1)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1e-3, 10, 160, 400, 2000])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("classes", "num_above"), [(2, 1), (3, 3), (9, 4), (41, 41), (41, 17), (64, 64)])
def test_every_kernel_gives_the_sums_of_the_formula(kernel, dtype, spread, tied, classes, num_above):
    scores, ties = case(classes, tied, spread)
    scores = torch.from_numpy(scores).to(dtype)
    kept = np.zeros(scores.shape, int) if ties is None else ties.numpy()
    losses, gradient = reference(scores.double().numpy(), num_above, kept)
    got, got_gradient = pairs.pair_losses(scores, num_above, ties, True)
    assert got.dtype == got_gradient.dtype == dtype
    rtol, atol = (1e-11, 1e-11) if dtype == torch.float64 else (3e-6, 1e-5)
    np.testing.assert_allclose(got.double().numpy(), losses, rtol=rtol, atol=atol)
    np.testing.assert_allclose(got_gradient.double().numpy(), gradient, rtol=rtol, atol=atol)


def test_numba_leaves_what_it_cannot_hold_to_torch():
    fine, wide = torch.tensor([[690.0, 1.0], [0.0, 0.0]]), torch.tensor([[700.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert numba.can_take(fine)
    assert not numba.can_take(wide)
    assert not numba.can_take(torch.tensor([[torch.nan, 1.0]]))
    assert not numba.can_take(torch.tensor([[-torch.inf, 1.0]]))


def test_a_student_that_diverged_shows(kernel):
    student = torch.zeros(2, 5)
    student[1, 3] = torch.nan
    assert torch.isnan(grkd(student, ranks=torch.arange(5).expand(2, 5)))


def student_and_ranks():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 60, generator=generator)
    return student, torch.randn(4, 60, generator=generator).argsort(1)


def test_in_a_compiled_graph_the_same():
    student, ranks = student_and_ranks()
    results = []
    for function in (grkd, torch.compile(grkd, backend="aot_eager", fullgraph=True)):
        leaf = student.clone().requires_grad_()
        loss = function(leaf, ranks=ranks)
        loss.backward()
        results.append((loss.item(), leaf.grad))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_the_operator_is_registered_as_torch_wants_it():
    scores = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    ties = torch.zeros(3, 7, dtype=torch.int64)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    for arguments in ((scores, 7, None, True), (scores, 4, ties, True), (scores.detach(), 7, None, False)):
        torch.library.opcheck(pairs.pair_losses, arguments, test_utils=tests)


def test_under_autocast_nothing_is_rounded():
    student, ranks = student_and_ranks()
    expected = grkd(student, ranks=ranks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(grkd(student, ranks=ranks), expected)


def test_threads_do_not_disturb_each_other():
    student, ranks = student_and_ranks()
    expected = grkd(student, ranks=ranks)
    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(grkd, student, ranks=ranks) for _ in range(40)]
        assert all(torch.equal(result.result(), expected) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_use_it_too():
    student, ranks = student_and_ranks()
    expected = grkd(student, ranks=ranks)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(grkd(student, ranks=ranks), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


TRITON = """
    import torch
    from kdpipe.pipeline.losses import pairs_torch, pairs_triton
    from kdpipe.pipeline.losses.grkd import order_with_ties
    torch.manual_seed(0)
    for classes, num_above, tied in ((5, 5, False), (130, 130, True), (130, 70, False), (64, 64, True)):
        for dtype in (torch.float32, torch.float64):
            scores = 4 * torch.randn(2, classes, dtype=dtype)
            ties = order_with_ties(torch.randn(2, classes).mul(3).round())[1] if tied else None
            got = pairs_triton.pair_losses(scores, num_above, ties)
            wanted = pairs_torch.pair_losses(scores, num_above, ties)
            for one, other in zip(got, wanted):
                torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-5)
"""


def test_the_kernel_for_gpus_in_tritons_interpreter():
    pytest.importorskip("triton")
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRITON)], check=True, env={**os.environ, "TRITON_INTERPRET": "1"}
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tied", [False, True])
def test_on_a_gpu(tied):
    scores, ties = case(1000, tied, 12)
    scores = torch.from_numpy(scores)
    losses, gradient = pairs.pair_losses(scores, 1000, ties, True)
    got, got_gradient = pairs.pair_losses(scores.float().cuda(), 1000, None if ties is None else ties.cuda(), True)
    torch.testing.assert_close(got.cpu().double(), losses, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(got_gradient.cpu().double(), gradient, rtol=1e-4, atol=1e-3)
