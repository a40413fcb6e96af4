"""What every loss of the registry keeps: exact gradients, its precision, its teacher untouched, clear refusals."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline.losses import LOSSES, LossInputs, Objective, TeacherMass, parse_loss
from kdpipe.stores.errors import UsageError

BATCH, CLASSES = 6, 7
GROUPS = torch.tensor([0, 0, 1, 1, 1, 2, 2])
# every entry, and the ways it can be computed that its default is not
SPECS = [
    *LOSSES,
    "lskd,base=dkd",
    "ltkd,calibration=store",
    "listmle,depth=3",
    "ckd,size=3",
    "abkd,alpha=0.3,beta=0.8",
    "abkd,alpha=0,beta=0",
    "redistill,power=0",
]


def inputs(dtype: Any = torch.float64, scale: Any = 2.0, **changes: Any) -> Any:
    rng = np.random.default_rng(0)
    student, teacher = torch.tensor(rng.normal(0, scale, (2, BATCH, CLASSES))).to(dtype).unbind()
    classes = (teacher.double() / 4).softmax(1).mean(0)
    mass = TeacherMass(classes=classes, groups=torch.zeros(3, dtype=torch.float64).index_add(0, GROUPS, classes))
    batch = LossInputs(
        student_logits=student.requires_grad_(),
        labels=torch.tensor(rng.integers(0, CLASSES, BATCH)),
        logits=teacher,
        ranks=teacher.argsort(1, descending=True),
        class_groups=GROUPS,
        class_counts=torch.tensor([50, 20, 9, 4, 2, 1, 0]),
        teacher_mass={4.0: mass},
        epoch=0,
    )
    return dataclasses.replace(batch, **changes)


def gradient(spec, batch):
    return torch.autograd.grad(parse_loss(spec)(batch), batch.student_logits)[0]


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_exact(spec):
    batch, loss = inputs(), parse_loss(spec)

    def of_student(student):
        return loss(dataclasses.replace(batch, student_logits=student))

    assert torch.autograd.gradcheck(of_student, batch.student_logits, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_the_teacher_gets_no_gradient(spec):
    teacher = torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True)
    batch = inputs(logits=teacher)
    parse_loss(spec)(batch).backward()
    assert teacher.grad is None
    assert batch.student_logits.grad is not None


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(spec, dtype):
    half = inputs(dtype)
    student = half.student_logits.detach().float().requires_grad_()
    exact = dataclasses.replace(half, student_logits=student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = parse_loss(spec)(half)
    (got,) = torch.autograd.grad(loss, half.student_logits)
    assert loss.dtype == torch.float32
    assert loss == parse_loss(spec)(exact)
    assert got.dtype == dtype
    assert torch.equal(got, gradient(spec, exact).to(dtype))


@pytest.mark.parametrize("spec", SPECS)
def test_the_precision_is_that_of_the_student(spec):
    double, single = inputs(), inputs(torch.float32)
    assert parse_loss(spec)(double).dtype == torch.float64
    assert parse_loss(spec)(single).dtype == torch.float32
    assert parse_loss(spec)(dataclasses.replace(double, logits=single.logits)).dtype == torch.float64


@pytest.mark.parametrize("spec", SPECS)
def test_logits_whose_probabilities_underflow_leave_the_loss_finite(spec):
    """Logits some 200 apart: at T = 1 most probabilities are 0 in float32."""
    batch = inputs(torch.float32, scale=50.0)
    assert torch.isfinite(parse_loss(spec)(batch))
    assert torch.isfinite(gradient(spec, batch)).all()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("logit", [0.0, 0.1])
def test_a_student_that_begins_with_equal_logits_can_learn(spec, logit):
    """As every network does whose last layer begins at 0: what is divided by a deviation must not explode."""
    student = torch.full((BATCH, CLASSES), logit, requires_grad=True)
    batch = inputs(torch.float32, student_logits=student)
    assert torch.isfinite(parse_loss(spec)(batch))
    assert gradient(spec, batch).abs().max() < 10


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("ckd")])
def test_an_offset_of_a_samples_logits_changes_nothing(spec):
    batch = inputs()
    offset = torch.tensor([[3.0], [-5], [0], [100], [-40], [0.5]], dtype=torch.float64)
    moved = dataclasses.replace(batch, student_logits=batch.student_logits + offset, logits=batch.logits - offset)
    torch.testing.assert_close(parse_loss(spec)(moved), parse_loss(spec)(batch), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS)
def test_the_order_of_the_classes_does_not_matter(spec):
    batch, order = inputs(), torch.tensor([3, 6, 0, 5, 1, 4, 2])
    (mass,) = batch.teacher_mass.values()
    moved = dataclasses.replace(
        batch,
        student_logits=batch.student_logits[:, order],
        logits=batch.logits[:, order],
        labels=order.argsort()[batch.labels],
        ranks=order.argsort()[batch.ranks],
        class_groups=GROUPS[order],
        class_counts=batch.class_counts[order],
        teacher_mass={4.0: TeacherMass(classes=mass.classes[order], groups=mass.groups)},
    )
    torch.testing.assert_close(parse_loss(spec)(moved), parse_loss(spec)(batch))


@pytest.mark.parametrize("spec", ["dkd", "pld", "kd,temperature=2"])
def test_in_a_compiled_graph_the_same(spec):
    loss = parse_loss(spec)
    compiled = torch.compile(loss.__call__, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs()), loss(inputs()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_what_a_batch_lacks_is_named(spec):
    loss = parse_loss(spec)
    reads = {"labels"} if "base=dkd" in spec else READS[loss.name]
    for name in reads | loss.needs:
        missing = {} if name == "teacher_mass" else None
        with pytest.raises(UsageError, match=rf"'{loss.name}' needs LossInputs\.{name}"):
            loss(inputs(**{name: missing}))
    if loss.mass_temperature is not None:
        assert loss.mass_temperature == 4.0
        with pytest.raises(UsageError, match=rf"'{loss.name}' needs LossInputs\.teacher_mass at temperature 4"):
            loss(inputs(teacher_mass={3.0: inputs().teacher_mass[4.0]}))


# what each reads beside the store's arrays
READS = {name: set() for name in LOSSES} | {
    "ce": {"labels"},
    "dkd": {"labels"},
    "pld": {"labels"},
    "ckd": {"labels"},
    "bkd": {"class_counts"},
    "balanced-softmax": {"labels", "class_counts"},
    "logit-adjustment": {"labels", "class_counts"},
    "ltkd": {"class_groups"},
    "grkd-rebalanced": {"class_groups", "teacher_mass"},
    "cckd": {"teacher_mass"},
}


@pytest.mark.parametrize("spec", SPECS)
def test_shapes_that_do_not_match_are_refused_by_name(spec):
    loss = parse_loss(spec)
    for changes in (
        {"student_logits": torch.zeros(BATCH, CLASSES, 1)},
        {"student_logits": torch.zeros(BATCH, CLASSES, dtype=torch.long)},
        {"logits": torch.zeros(BATCH, CLASSES + 1)} if "logits" in loss.needs else {"student_logits": torch.zeros(3)},
    ):
        with pytest.raises(UsageError, match=r"student_logits (is|has)|teacher_logits has|logits has shape"):
            loss(inputs(**changes))


@pytest.mark.parametrize("name", LOSSES)
def test_every_number_is_checked_when_the_spec_is_read(name):
    """A run must not fail in its first step for a parameter that could be seen to be wrong."""
    for field in dataclasses.fields(LOSSES[name]):
        if field.type not in ("float", float, "int", int, "int | None"):
            continue
        for bad in ("-3.0", "nan", "1e+155", "1e+300") if "float" in str(field.type) else ("-3",):
            if (name, bad) == ("abkd", "-3.0") and field.name in ("alpha", "beta"):
                continue  # of either sign
            with pytest.raises(UsageError, match=re.escape(f"{field.name} is {bad}.")):
                parse_loss(f"{name},{field.name}={bad}")


@pytest.mark.parametrize("temperature", ["0.01", "1000"])
def test_extreme_temperatures_are_allowed(temperature):
    for name, loss in LOSSES.items():
        for field in {"temperature", "tau", "strength"} & {field.name for field in dataclasses.fields(loss)}:
            assert getattr(parse_loss(f"{name},{field}={temperature}"), field) == float(temperature)
    with pytest.raises(UsageError, match="temperature is 1e-09"):
        parse_loss("grkd-rebalanced,temperature=1e-9")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same():
    on_cpu = inputs(torch.float32)
    moved = {
        field.name: value.to("cuda") for field in dataclasses.fields(on_cpu)
        if isinstance(value := getattr(on_cpu, field.name), torch.Tensor)
    }  # fmt: skip
    moved["student_logits"] = moved["student_logits"].detach().requires_grad_()
    mass = on_cpu.teacher_mass[4.0].to(torch.device("cuda"))
    on_gpu = dataclasses.replace(on_cpu, **moved, teacher_mass={4.0: mass})
    for spec in SPECS:
        torch.testing.assert_close(parse_loss(spec)(on_gpu).cpu(), parse_loss(spec)(on_cpu), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient(spec, on_gpu).cpu(), gradient(spec, on_cpu), rtol=1e-3, atol=1e-5)


def test_all_of_them_together_train():
    """One objective of every loss: nothing is stepped on, and its terms are finite."""
    result = Objective.parse(list(LOSSES))(inputs(torch.float32))
    assert list(result) == ["loss", *LOSSES]
    assert all(math.isfinite(value.item()) for value in result.values())
