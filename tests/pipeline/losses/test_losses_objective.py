"""The registry of losses, and the objective they add up to."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from kdpipe.pipeline.losses import (
    GRKD,
    KD,
    LOSSES,
    LTKD,
    CrossEntropy,
    Loss,
    LossInputs,
    Objective,
    grkd,
    group_masses,
    kd,
    ltkd,
    parse_loss,
    register,
)
from kdpipe.stores.errors import UsageError

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 4, 6, generator=GENERATOR).unbind()
LABELS = torch.tensor([0, 5, 2, 2])
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
MASS = torch.tensor([5.0, 2.0, 1.0])
BATCH = LossInputs(
    student_logits=STUDENT,
    labels=LABELS,
    logits=TEACHER,
    ranks=TEACHER.argsort(1, descending=True).to(torch.uint8),
    class_groups=GROUPS,
    group_mass=MASS,
)
CE = F.cross_entropy(STUDENT, LABELS)


# the registry


def test_the_names():
    assert {name: loss.needs for name, loss in LOSSES.items()} == {
        "ce": set(),
        "kd": {"logits"},
        "grkd": {"ranks"},
        "ltkd": {"logits"},
    }


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("ce", CrossEntropy()),
        ("ce,weight=0.5", CrossEntropy(weight=0.5)),
        ("kd", KD(temperature=4.0)),
        ("kd,temperature=2,weight=0.9", KD(temperature=2.0, weight=0.9)),
        ("grkd", GRKD(tau=1.0, reduction="pair_mean")),
        ("grkd,weight=0.1,tau=0.5,reduction=sum", GRKD(weight=0.1, tau=0.5, reduction="sum")),
        ("ltkd", LTKD(alpha=1.0, beta=1.0, temperature=4.0, calibration="batch")),
        ("ltkd,alpha=1,beta=2,temperature=3", LTKD(alpha=1.0, beta=2.0, temperature=3.0)),
        ("ltkd,calibration=store", LTKD(calibration="store")),
    ],
)
def test_parse(text, loss):
    assert parse_loss(text) == loss
    assert loss.weight == (float(text.split("weight=")[1].split(",")[0]) if "weight" in text else 1.0)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(weight=3.0), CE),
        (KD(temperature=2.0, weight=3.0), kd(STUDENT, TEACHER, temperature=2.0)),
        (GRKD(tau=0.5, reduction="sum", weight=3.0), grkd(STUDENT, ranks=BATCH.ranks, tau=0.5, reduction="sum")),
        (
            LTKD(alpha=0.5, beta=2.0, temperature=3.0),
            ltkd(STUDENT, TEACHER, GROUPS, alpha=0.5, beta=2.0, temperature=3),
        ),
        (LTKD(calibration="store"), ltkd(STUDENT, TEACHER, GROUPS, group_mass=MASS)),
    ],
)
def test_entries_are_the_functions_unweighted(loss, expected):
    assert loss(BATCH) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grdk", "Unknown loss 'grdk'. Did you mean 'grkd'"),
        ("kd,temprature=2", "Did you mean 'temperature'"),
        ("kd,temperature=hot", "cannot be read"),
        ("kd,name=other", "Unknown option of 'kd' 'name'"),
        ("kd:here", "has a location"),
        ("kd,temperature=0", "temperature is 0.0"),
        ("kd,temperature=inf", "temperature is inf"),
        ("kd,weight=-1", "weight is -1.0"),
        ("grkd,tau=-1", "tau is -1.0"),
        ("grkd,reduction=mean", "Unknown reduction 'mean'"),
        ("ltkd,temperature=0", "temperature is 0.0"),
        ("ltkd,alpha=-1", "alpha is -1.0"),
        ("ltkd,beta=-1", "beta is -1.0"),
        ("ltkd,calibration=stores", "Did you mean 'store'"),
    ],
)
def test_parse_errors(text, message):
    with pytest.raises(UsageError, match=message):
        parse_loss(text)


@pytest.mark.parametrize(
    ("loss", "missing"),
    [
        (KD(), "logits"),
        (GRKD(), "ranks"),
        (LTKD(), "logits"),
        (LTKD(), "class_groups"),
        (LTKD(calibration="store"), "group_mass"),
    ],
)
def test_a_batch_that_lacks_an_array_is_refused_by_name(loss, missing):
    with pytest.raises(UsageError, match=rf"'{loss.name}' needs LossInputs\.{missing}"):
        loss(dataclasses.replace(BATCH, **{missing: None}))


def test_a_new_loss_is_one_class(monkeypatch):
    monkeypatch.setattr("kdpipe.pipeline.losses.registry.LOSSES", dict(LOSSES))

    @register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Square(Loss):
        name = "square"
        factor: float = 2.0

        def __call__(self, batch):
            return self.factor * batch.student_logits.square().mean()

    result = Objective.parse(["square,factor=3,weight=0.5"], ce_weight=0)(BATCH)
    assert result.keys() == {"loss", "square"}
    torch.testing.assert_close(result["loss"], 1.5 * STUDENT.square().mean())


@pytest.mark.parametrize("labels", [LABELS[:3], LABELS[:, None], LABELS.float()])
def test_cross_entropy_refuses_labels(labels):
    with pytest.raises(UsageError, match="labels"):
        CrossEntropy()(dataclasses.replace(BATCH, labels=labels))


def test_cross_entropy_in_half_precision():
    student = STUDENT.half().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CrossEntropy()(dataclasses.replace(BATCH, student_logits=student, labels=LABELS.to(torch.int16)))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss == F.cross_entropy(STUDENT.half().float(), LABELS)
    assert gradient.dtype == torch.float16


# the objective


def test_terms_are_weighted_and_add_up():
    objective = Objective.parse(["kd,temperature=2,weight=0.9", "grkd,weight=0.1"], ce_weight=0.3)
    result = objective(BATCH)
    expected = {"ce": 0.3 * CE, "kd": 0.9 * kd(STUDENT, TEACHER, temperature=2), "grkd": 0.1 * GRKD()(BATCH)}
    assert list(result) == ["loss", *expected]
    for key, value in expected.items():
        torch.testing.assert_close(result[key], value)
    torch.testing.assert_close(result["loss"], sum(expected.values()))
    assert objective.needs == {"logits", "ranks"}


def test_the_total_carries_every_gradient():
    student = STUDENT.clone().requires_grad_()
    result = Objective.parse(["kd", "grkd,weight=2", "ltkd"], ce_weight=0.5)(
        dataclasses.replace(BATCH, student_logits=student)
    )
    expected = 0.5 * F.cross_entropy(student, LABELS) + kd(student, TEACHER) + ltkd(student, TEACHER, GROUPS)
    expected = expected + 2 * grkd(student, ranks=BATCH.ranks)
    (gradient,) = torch.autograd.grad(result["loss"], student)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])


@pytest.mark.parametrize(
    ("texts", "ce_weight", "weights"),
    [
        (["ce"], None, {"ce": 1.0}),
        ([], None, {"ce": 1.0}),
        ([], 0.5, {"ce": 0.5}),
        (["ce,weight=0.5"], None, {"ce": 0.5}),
        (["kd"], None, {"ce": 1.0, "kd": 1.0}),
        (["kd", "ce,weight=2"], None, {"kd": 1.0, "ce": 2.0}),
        (["kd"], 0.1, {"ce": 0.1, "kd": 1.0}),
        (["kd"], 0.0, {"kd": 1.0}),
        (["kd,temperature=1", "kd,temperature=4", "kd"], 0.0, {"kd": 1.0, "kd#2": 1.0, "kd#3": 1.0}),
    ],
)
def test_cross_entropy_is_there_once(texts, ce_weight, weights):
    objective = Objective.parse(texts, ce_weight)
    assert {key: loss.weight for key, loss in objective.terms.items()} == weights
    assert objective(BATCH).keys() == {"loss", *weights}


def test_cross_entropy_alone_needs_nothing_of_the_store():
    objective = Objective.parse(["ce"])
    assert objective.needs == frozenset()
    assert objective(LossInputs(student_logits=STUDENT, labels=LABELS))["loss"] == CE


def test_calibration_names_its_temperature():
    assert Objective.parse(["ltkd,temperature=3", "kd"]).group_mass_temperature is None
    objective = Objective.parse(["ltkd,temperature=3,calibration=store", "kd,temperature=2"])
    assert objective.group_mass_temperature == 3.0
    mass = group_masses(TEACHER, GROUPS, 3.0)
    batch = dataclasses.replace(BATCH, group_mass=mass)
    torch.testing.assert_close(objective(batch)["ltkd"], ltkd(STUDENT, TEACHER, GROUPS, temperature=3.0))


@pytest.mark.parametrize(
    ("texts", "ce_weight", "message"),
    [
        (["ce"], 1.0, "given twice"),
        ([], 0.0, "empty"),
        (["kd,weight=0"], 0.0, "empty"),
        (["kd"], -1.0, "ce_weight is -1.0"),
        (["kd", "kdd"], None, "Unknown loss 'kdd'"),
        (["ltkd,calibration=store", "ltkd,calibration=store,temperature=2"], None, r"\[2.0, 4.0\]"),
    ],
)
def test_objective_errors(texts, ce_weight, message):
    with pytest.raises(UsageError, match=message):
        Objective.parse(texts, ce_weight)
