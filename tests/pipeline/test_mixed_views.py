"""Mixed views and several at once: two labels, every view of the teacher, and targets mixed as the inputs are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import distill
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.losses import LossInputs, Objective
from kdpipe.pipeline.sweep import SweepConfig, sweep
from kdpipe.stores import RefusedError, UsageError, open_store
from viewed import DATA, config, data_of


def test_mixed_views_need_all_partners(view_stores: dict[str, Path]) -> None:
    samples = load_data(DATA)
    with pytest.raises(RefusedError, match="1 of its 120 samples are not in"):
        data_of(view_stores["mixed"], samples.select(np.arange(119)))
    data_of(view_stores["rrc"], samples.select(np.arange(119)))


def test_cross_entropy_of_mixed_inputs_has_two_labels(view_stores: dict[str, Path]) -> None:
    data = data_of(view_stores["mixed"])
    batch = next(iter(data.epoch(0, 0, pin_memory=False)))
    store = open_store(view_stores["mixed"])
    read = store.read(batch.positions, arrays=("mix_rows", "mix_ratios"))  # positions are rows here
    labels = load_data(DATA).labels
    logits = np.random.default_rng(0).normal(size=(32, 10))
    log_q = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    shares, rows = read["mix_ratios"][:, 0].astype(np.float64), np.arange(32)
    own, partner = labels[batch.positions], labels[read["mix_rows"][:, 0]]
    expected = -(shares * log_q[rows, own] + (1 - shares) * log_q[rows, partner]).mean()
    student = torch.from_numpy(logits)
    targets: Any = data.targets(batch)
    found = Objective.parse(("ce",))(LossInputs(student_logits=student, **targets))
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ["balanced-softmax", "logit-adjustment", "dkd", "ckd", "pld", "lskd,base=dkd"])
def test_losses_of_one_label_refuse_mixed_inputs(view_stores: dict[str, Path], tmp_path: Path, loss: str) -> None:
    message = f"The loss '{loss.partition(',')[0]}' needs one label for every sample"
    base = config(view_stores["mixed"], tmp_path / "run", loss=(loss,), val=DATA)
    with pytest.raises(UsageError, match=message):
        distill(base)
    with pytest.raises(UsageError, match=message):  # before the first trial
        sweep(SweepConfig(base=base, losses=("kd", loss)))
    assert not (tmp_path / "run").exists()


OWN_LOSS = """
from dataclasses import dataclass
from typing import ClassVar

from kdpipe.pipeline.losses import Loss
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, kw_only=True)
class {name}(Loss):
    name: ClassVar[str] = "{name}"

    def __call__(self, batch):
        return cross_entropy(batch.student_logits, {labels})
"""


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("batch.labels", r"'own' raised TypeError.*mixed of two samples.*Take mixed_labels and label_shares"),
        ("batch.need('labels', 'own')", "The loss 'own' needs one label for every sample"),
    ],
)
def test_a_loss_of_ones_own_has_no_one_label_of_mixed_inputs(
    view_stores: dict[str, Path], tmp_path: Path, module: Callable[[str, str], None], labels: str, message: str
) -> None:
    module("one_label", OWN_LOSS.format(name="own", labels=labels))
    with pytest.raises(UsageError, match=message):
        distill(config(view_stores["mixed"], tmp_path / "run", loss=("python:one_label:own",)))
    distill(config(view_stores["rrc"], tmp_path / "run", loss=("python:one_label:own",), epochs=1))


@pytest.mark.parametrize("loss", ["kd", "ltkd", "grkd", "dist"])
def test_losses_of_the_teacher_take_mixed_inputs(view_stores: dict[str, Path], tmp_path: Path, loss: str) -> None:
    assert distill(config(view_stores["mixed"], tmp_path / "run", loss=(loss,), epochs=1)).trained


def test_the_bayesian_loss_is_given_every_view(view_stores: dict[str, Path]) -> None:
    data = data_of(view_stores["rrc"], objective="bayesian", views=2)
    store = open_store(view_stores["rrc"])
    for epoch in (0, 1):
        batch = next(iter(data.epoch(epoch, 0, pin_memory=False)))
        targets: Any = data.targets(batch)
        views = [store.read(batch.positions, view=view)["logits"] for view in range(2)]  # positions are rows here
        np.testing.assert_array_equal(targets["view_logits"].numpy(), np.stack(views, axis=1))
        student = torch.randn(32, 10)
        mean = np.mean(
            [np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in np.stack(views).astype(np.float64)], axis=0
        )
        expected = -(mean * student.double().log_softmax(1).numpy()).sum(1).mean()
        found = Objective.parse(("bayesian",), 0)(LossInputs(student_logits=student, labels=batch.labels, **targets))
        assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)


def test_mixkd_mixes_what_the_teacher_says_of_the_parts(view_stores: dict[str, Path]) -> None:
    samples = load_data(DATA)
    shuffled = samples.select(np.random.default_rng(1).permutation(120))
    data, plain = (
        data_of(view_stores["rrc"], shuffled, objective="mixkd", mixup=0.7),
        data_of(view_stores["rrc"], shuffled),
    )
    batch = next(iter(data.epoch(1, 0, pin_memory=False)))
    targets: Any = data.targets(batch)
    unmixed = plain.dataset.at_view(1)
    rows = {name: row for row, name in enumerate(samples.sample_ids.to_pylist())}
    partner_rows, shares = batch.drawn["mix_rows"][:, 0], batch.drawn["mix_ratios"]
    partners = np.array(
        [shuffled.sample_ids.to_pylist().index(samples.sample_ids[int(r)].as_py()) for r in partner_rows]
    )
    expected = torch.from_numpy(shares).view(-1, 1, 1, 1) * unmixed.batch(batch.positions).inputs
    expected += (1 - torch.from_numpy(shares)).view(-1, 1, 1, 1) * unmixed.batch(partners).inputs
    torch.testing.assert_close(batch.inputs, expected)
    store = open_store(view_stores["rrc"])
    own = [rows[shuffled.sample_ids[int(position)].as_py()] for position in batch.positions]
    np.testing.assert_array_equal(targets["logits"].numpy(), store.read(own, view=1)["logits"])
    np.testing.assert_array_equal(targets["partner_logits"].numpy(), store.read(partner_rows, view=1)["logits"])
    both = np.stack([shuffled.labels[batch.positions], shuffled.labels[partners]], axis=1)
    assert targets["mixed_labels"].tolist() == both.tolist()


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("rrc", {"objective": "mixkd"}, "Give that, or use kd"),
        ("rrc", {"objective": "kd", "mixup": 0.4}, "it has not seen those that --mixup mixes"),
        ("rrc", {"objective": "mixkd", "mixup": 9}, "mixup is 9"),
        ("mixed", {"objective": "mixkd", "mixup": 0.4}, "has seen them so"),
        ("mixed", {"objective": "bayesian"}, "these are mixed of two each"),
        ("plain", {"objective": "mixkd", "mixup": 0.4}, "--mixup is about augmented views.*extract --augment SPEC"),
        ("plain", {"objective": "mixkd"}, "is for inputs that --mixup ALPHA mixes, .*extract --augment"),
    ],
    ids=str,
)
def test_what_the_teacher_has_not_said_is_refused(
    view_stores: dict[str, Path], name: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        data_of(view_stores[name], **changes)


@pytest.mark.parametrize("changes", [{"loss": ("bayesian",)}, {"loss": ("mixkd",), "mixup": 0.4, "size": 12}], ids=str)
def test_losses_of_several_views_train(view_stores: dict[str, Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    assert distill(config(view_stores["rrc"], tmp_path / "run", **changes)).trained
