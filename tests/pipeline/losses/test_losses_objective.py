"""The registry of losses, and the objective they add up to."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from kdpipe.pipeline.losses import (
    ABKD,
    BKD,
    CCKD,
    CKD,
    CMKD,
    DIST,
    DKD,
    GRKD,
    KD,
    LOSSES,
    LSKD,
    LTKD,
    PLD,
    RLKD,
    BalancedSoftmax,
    BayesianKD,
    CrossEntropy,
    ListMLE,
    LogitAdjustment,
    Loss,
    LossInputs,
    MixKD,
    Objective,
    RebalancedGRKD,
    REDistill,
    TeacherMass,
    abkd,
    balanced_softmax,
    bayesian_kd,
    bkd,
    cckd,
    ckd,
    cmkd,
    dist,
    dkd,
    grkd,
    grkd_rebalanced,
    group_masses,
    kd,
    listmle,
    logit_adjustment,
    ltkd,
    mixkd,
    parse_loss,
    pld,
    redistill,
    register,
    rlkd,
)
from kdpipe.stores.errors import UsageError

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER, PARTNER = torch.randn(3, 4, 6, generator=GENERATOR).unbind()
VIEWS = torch.randn(4, 3, 6, generator=GENERATOR)
SHARES = torch.tensor([0.9, 0.5, 0.7, 1.0])
LABELS = torch.tensor([0, 5, 2, 2])
MIXED_LABELS = torch.stack([LABELS, LABELS.flip(0)], dim=1)
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
MASS = TeacherMass(classes=torch.tensor([0.4, 0.2, 0.1, 0.1, 0.1, 0.1]), groups=torch.tensor([0.6, 0.2, 0.2]))
COUNTS = torch.tensor([9, 6, 4, 3, 2, 1])
BATCH = LossInputs(
    student_logits=STUDENT,
    labels=LABELS,
    logits=TEACHER,
    ranks=TEACHER.argsort(1, descending=True).to(torch.uint8),
    class_groups=GROUPS,
    class_counts=COUNTS,
    teacher_mass={4.0: MASS, 2.0: TeacherMass(classes=MASS.classes.flip(0), groups=MASS.groups.flip(0))},
)
CE = F.cross_entropy(STUDENT, LABELS)


# the registry


def test_the_names():
    of_logits = "abkd bayesian bkd cckd ckd cmkd dist dkd grkd-rebalanced kd lskd ltkd mixkd pld redistill rlkd"
    assert {name: loss.needs for name, loss in LOSSES.items()} == {
        **{name: set() for name in ("ce", "balanced-softmax", "logit-adjustment")},
        **{name: {"ranks"} for name in ("grkd", "listmle")},
        **{name: {"logits"} for name in of_logits.split()},
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
        ("dkd,beta=2,weight=0.5", DKD(beta=2.0, weight=0.5, warmup_epochs=20.0)),
        ("kd,warmup_epochs=5", KD(warmup_epochs=5.0)),
        ("listmle", ListMLE(depth=None)),
        ("listmle,depth=5", ListMLE(depth=5)),
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
        (LTKD(calibration="store"), ltkd(STUDENT, TEACHER, GROUPS, group_mass=MASS.groups)),
        (CCKD(weight=3.0), cckd(STUDENT, TEACHER, MASS.classes)),
        (CCKD(temperature=2.0), cckd(STUDENT, TEACHER, MASS.classes.flip(0), temperature=2)),
        (
            RebalancedGRKD(temperature=2.0, tau=0.5, reduction="sum"),
            grkd_rebalanced(STUDENT, TEACHER, GROUPS, MASS.groups.flip(0), temperature=2, tau=0.5, reduction="sum"),
        ),
        (DKD(alpha=0.5, beta=2.0, temperature=3.0), dkd(STUDENT, TEACHER, LABELS, alpha=0.5, beta=2, temperature=3)),
        (DIST(beta=2.0, gamma=0.5, temperature=3.0), dist(STUDENT, TEACHER, beta=2, gamma=0.5, temperature=3)),
        (ABKD(alpha=0.5, beta=0.2, temperature=3.0), abkd(STUDENT, TEACHER, alpha=0.5, beta=0.2, temperature=3)),
        (REDistill(power=0.5, temperature=3.0), redistill(STUDENT, TEACHER, power=0.5, temperature=3)),
        (
            CMKD(alpha=0.5, beta=2.0, temperature=3.0, strength=0.3),
            cmkd(STUDENT, TEACHER, alpha=0.5, beta=2, temperature=3, strength=0.3),
        ),
        (RLKD(k=2, strength=0.3), rlkd(STUDENT, TEACHER, k=2, strength=0.3)),
        (BKD(beta=0.9, temperature=3.0), bkd(STUDENT, TEACHER, COUNTS, beta=0.9, temperature=3)),
        (CKD(size=1, class_weight=0.5), ckd(STUDENT, TEACHER, LABELS, size=1, class_weight=0.5)),
        (ListMLE(depth=2), listmle(STUDENT, ranks=BATCH.ranks, depth=2)),
        (PLD(temperature=3.0), pld(STUDENT, TEACHER, LABELS, temperature=3)),
        (LogitAdjustment(tau=0.5), logit_adjustment(STUDENT, LABELS, COUNTS, tau=0.5)),
        (BalancedSoftmax(), balanced_softmax(STUDENT, LABELS, COUNTS)),
    ],
)
def test_entries_are_the_functions_unweighted(loss, expected):
    assert loss(BATCH) == expected


def test_entries_of_views_and_of_mixed_inputs():
    bayesian, mixed = BayesianKD(temperature=2.0), MixKD(temperature=2.0)
    assert bayesian(BATCH) == bayesian_kd(STUDENT, TEACHER[None], temperature=2)
    with_views = dataclasses.replace(BATCH, view_logits=VIEWS)
    assert bayesian(with_views) == bayesian_kd(STUDENT, VIEWS.transpose(0, 1), temperature=2)
    assert mixed(BATCH) == kd(STUDENT, TEACHER, temperature=2)
    parts = dataclasses.replace(BATCH, partner_logits=PARTNER, label_shares=SHARES)
    assert mixed(parts) == mixkd(STUDENT, TEACHER, PARTNER, SHARES, temperature=2)


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
        ("kd temperature=2", r"'kd temperature=2' is no loss\. Options come after a comma \(kd,key=value\)"),
        ("kd,temperature 2", r"'kd,temperature 2' is no loss\. Options come after a comma \(kd,key=value\)"),
    ],
)
def test_parse_errors(text, message):
    with pytest.raises(UsageError, match=message):
        parse_loss(text)


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


def test_a_fault_of_a_loss_of_kdpipes_is_no_users_mistake(monkeypatch):
    monkeypatch.setattr(KD, "__call__", lambda loss, batch: batch.no_such_attribute)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        Objective.parse(["kd"])(BATCH)


@pytest.mark.parametrize("loss", [loss() for loss in LOSSES.values()] + [LSKD(base="dkd")], ids=str)
def test_losses_say_whether_they_need_one_label(loss):
    mixed = dataclasses.replace(
        BATCH, labels=None, mixed_labels=MIXED_LABELS, label_shares=SHARES, view_logits=VIEWS,
        epoch=0, partner_logits=PARTNER,
    )  # fmt: skip
    if loss.one_label:
        with pytest.raises(UsageError, match=f"'{loss.name}' needs one label for every sample"):
            loss(mixed)
    else:
        assert loss(mixed).isfinite()


def test_a_loss_that_warms_up_longer_than_the_run_is_reported(caplog):
    objective = Objective.parse(["dkd", "kd,warmup_epochs=2", "grkd"])
    objective.report_warm_up(3)
    [record] = caplog.records
    assert "'dkd' warms up over 20 epochs and the run has 3: its weight is 10 %" in record.getMessage()  # (1+2+3)/20/3


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
        (["balanced-softmax", "kd"], None, {"balanced-softmax": 1.0, "kd": 1.0}),
        (["logit-adjustment,weight=0.3"], None, {"logit-adjustment": 0.3}),
        (["pld"], None, {"pld": 1.0}),
        (["ckd"], None, {"ckd": 1.0}),
        (["pld", "ce,weight=0.5"], None, {"pld": 1.0, "ce": 0.5}),
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


def test_calibration_names_its_temperatures():
    assert Objective.parse(["ltkd,temperature=3", "kd"]).mass_temperatures == frozenset()
    objective = Objective.parse(["ltkd,temperature=3,calibration=store", "cckd,temperature=2", "grkd-rebalanced"])
    assert objective.mass_temperatures == {2.0, 3.0, 4.0}
    masses = {
        temperature: TeacherMass(
            classes=(TEACHER / temperature).softmax(1).mean(0), groups=group_masses(TEACHER, GROUPS, temperature)
        )
        for temperature in objective.mass_temperatures
    }
    result = objective(dataclasses.replace(BATCH, teacher_mass=masses))
    torch.testing.assert_close(result["ltkd"], ltkd(STUDENT, TEACHER, GROUPS, temperature=3.0))
    torch.testing.assert_close(result["cckd"], cckd(STUDENT, TEACHER, masses[2.0].classes, temperature=2.0))
    expected = grkd_rebalanced(STUDENT, TEACHER, GROUPS, masses[4.0].groups)
    torch.testing.assert_close(result["grkd-rebalanced"], expected)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.25), (2, 0.75), (3, 1.0), (9, 1.0)])
def test_a_loss_warms_up(epoch, factor):
    result = Objective.parse(["kd,weight=2,warmup_epochs=4", "grkd"])(dataclasses.replace(BATCH, epoch=epoch))
    torch.testing.assert_close(result["kd"], factor * 2 * kd(STUDENT, TEACHER))
    torch.testing.assert_close(result["grkd"], GRKD()(BATCH))


def test_a_loss_of_weight_0_is_left_out():
    """Not computed: REDistill of these is infinite, and 0 times infinity no number."""
    far = dataclasses.replace(BATCH, student_logits=1000 * STUDENT, ranks=None)
    objective = Objective.parse(["kd", "redistill,weight=0", "grkd,weight=0"])
    assert redistill(far.student_logits, TEACHER).isinf()
    assert objective.needs == {"logits"}
    assert objective(far)["loss"] == kd(far.student_logits, TEACHER) + F.cross_entropy(far.student_logits, LABELS)
    assert Objective.parse(["kd", "ce,weight=0"]).terms.keys() == {"kd"}


def test_a_loss_that_warms_up_needs_the_epoch():
    with pytest.raises(UsageError, match=r"'dkd' needs LossInputs\.epoch"):
        Objective.parse(["dkd"])(BATCH)
    Objective.parse(["dkd,warmup_epochs=0"])(BATCH)


@pytest.mark.parametrize(
    ("texts", "ce_weight", "message"),
    [
        (["ce"], 1.0, "given twice"),
        ([], 0.0, "empty"),
        (["kd,weight=0"], 0.0, "empty"),
        (["kd"], -1.0, "ce_weight is -1.0"),
        (["kd", "kdd"], None, "Unknown loss 'kdd'"),
        (["kd", "pld"], 0.5, "'pld' takes the place of cross-entropy"),
        (["balanced-softmax"], 0.0, "'balanced-softmax' takes the place of cross-entropy"),
    ],
)
def test_objective_errors(texts, ce_weight, message):
    with pytest.raises(UsageError, match=message):
        Objective.parse(texts, ce_weight)
