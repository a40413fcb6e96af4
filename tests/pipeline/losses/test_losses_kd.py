"""KD against torch's own divergence and its gradient in closed form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kdpipe.pipeline.losses import kd
from kdpipe.stores.errors import UsageError


def random_case(batch=5, classes=7, scale=3.0):
    rng = np.random.default_rng(0)
    return [torch.tensor(rng.normal(0, scale, (batch, classes))) for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_parity_with_torch(temperature):
    student, teacher = random_case()
    expected = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean"
    )
    assert kd(student, teacher, temperature=temperature).item() == pytest.approx(expected.item(), rel=1e-12)


def test_golden_rows():
    student = torch.tensor([[2.0, 0, 1, 1, 0, 0], [0, 1, 1, 0, -1, 0]], dtype=torch.float64)
    teacher = torch.tensor([[4.0, 1, 2, 0, -1, 0.5], [1, 3, 0, 2, 0, -2]], dtype=torch.float64)
    assert kd(student[:1], teacher[:1], temperature=1).item() == pytest.approx(0.2998570753, abs=1e-9)
    assert kd(student[1:], teacher[1:], temperature=1).item() == pytest.approx(0.4747562609, abs=1e-9)
    assert kd(student, teacher, temperature=1).item() == pytest.approx((0.2998570753 + 0.4747562609) / 2, abs=1e-9)


def test_hand_computed_at_temperature_2():
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(0.5))  # softmax((2, 0) / 2)[0], softmax((0, 1) / 2)[0]
    expected = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    got = kd(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]]), temperature=2)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_default_temperature_is_4():
    student, teacher = random_case()
    assert kd(student, teacher) == kd(student, teacher, temperature=4.0)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_gradient_carries_one_temperature(temperature):
    student, teacher = random_case()
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd(student, teacher, temperature=temperature), student)
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(gradient, temperature * difference.detach() / len(student))


def test_gradient_tends_to_logit_matching_as_temperature_grows():
    student, teacher = random_case(scale=1.0)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd(student, teacher, temperature=1e3), student)
    centred = (student - teacher) - (student - teacher).mean(1, keepdim=True)
    expected = centred.detach() / student.numel()
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=5e-5)


def test_gradcheck_and_teacher_detached():
    student, teacher = random_case(3, 4)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: kd(z, teacher, temperature=2.5), student.requires_grad_())
    kd(student, teacher).backward()
    assert teacher.grad is None


def test_zero_against_itself_and_finite_for_confident_logits():
    student, teacher = random_case()
    assert kd(teacher, teacher).item() == 0
    assert torch.isfinite(kd(student.float() * 1e4, teacher.float() * 1e4, temperature=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(dtype, autocast):
    student, teacher = (x.to(dtype) for x in random_case())
    student.requires_grad_()
    exact = student.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(kd(exact, teacher.float()), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = kd(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32
    assert loss == kd(exact, teacher.float())
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected.to(dtype))


def test_float64_is_kept():
    student, teacher = random_case()
    assert kd(student, teacher.half()).dtype == torch.float64
    assert kd(student.float(), teacher).dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), 4.0, "teacher_logits has shape"),
        (torch.zeros(2, 3), torch.zeros(3), 4.0, "teacher_logits has shape"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), 4.0, "student_logits has shape"),
        (torch.zeros(0, 3), torch.zeros(0, 3), 4.0, "student_logits has shape"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), 4.0, "teacher_logits is torch.int64"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 0.0, "temperature is 0.0"),
        (torch.zeros(2, 3), torch.zeros(2, 3), -1.0, "temperature is -1.0"),
        (torch.zeros(2, 3), torch.zeros(2, 3), math.inf, "temperature is inf"),
    ],
)
def test_errors(student, teacher, temperature, message):
    with pytest.raises(UsageError, match=message):
        kd(student, teacher, temperature=temperature)
