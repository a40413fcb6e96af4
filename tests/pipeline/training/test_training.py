"""A trainer restored after any step goes on as if it had never stopped; a run that diverges says so."""

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.inputs import Batch, InputDataset
from kdpipe.pipeline.losses import LossInputs, Objective
from kdpipe.pipeline.training.cohort import Cohort
from kdpipe.pipeline.training.failures import Failures
from kdpipe.pipeline.training.optimisation import OptimiserConfig
from kdpipe.pipeline.training.trainer import Trainer
from kdpipe.pipeline.training.training_data import TrainingData
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import BatchSampler
from kdpipe.stores.errors import KdpipeError
from torch import Tensor, nn

CPU = torch.device("cpu")
GROUPS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
EPOCHS, STEPS = 2, 4
DATASET = InputDataset(load_data("digits").select(np.arange(40)), Preprocessing())
TEACHER = torch.randn(40, 10, generator=torch.Generator().manual_seed(5))


def network() -> nn.Module:
    """With everything that has a state of its own: batch statistics and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 36, 10)
    )


def teacher(batch: Batch) -> dict[str, Tensor]:
    return {"logits": TEACHER[batch.positions]}


def trainer(ema: float | None = None, **settings: object) -> Trainer:
    torch.manual_seed(3)
    # positions are not 0, 1, 2, ...: a sampler's index is not a position
    positions = np.arange(39, 7, -1)
    data = TrainingData(
        dataset=DATASET,
        sampler=BatchSampler(np.arange(32), 16, 8, seed=1),
        positions=positions,
        targets=teacher,
        class_groups=GROUPS,
    )
    optimiser = OptimiserConfig(**{"lr": 0.05, "warmup_epochs": 0.5, **settings})  # pyright: ignore[reportArgumentType]
    objective = Objective.parse(("kd",))
    return Trainer(network(), data, objective, optimiser, epochs=EPOCHS, device=CPU, precision="fp32", ema=ema)


def run_epoch(of: Trainer, after_step: Callable[[], None] = lambda: None) -> dict[str, float]:
    failures = Failures()
    ended = Cohort({0: of}, failures).run_epoch(after_step)
    for error in failures.values():
        raise error
    return ended[0]


def weights(of: Trainer) -> dict[str, Tensor]:
    averaged = {f"average.{name}": tensor for name, tensor in of.module.state_dict().items()}
    return {**of.student.state_dict(), **averaged}


def run(of: Trainer, states: list[dict[str, Any]] | None = None) -> list[dict[str, float]]:
    """To the last epoch; the state after every step is kept in ``states``."""
    records = []

    def keep() -> None:
        if states is not None:
            states.append(copy.deepcopy(of.state()))

    while of.epoch < EPOCHS:
        records.append(run_epoch(of, keep))
    return [{name: value for name, value in r.items() if name in ("loss", "ce", "kd", "lr")} for r in records]


@pytest.mark.parametrize(
    "settings",
    [{}, {"ema": 0.8}, {"optimizer": "adamw", "lr": 1e-3, "clip_grad": 0.5, "ema": 0.5}, {"schedule": "step"}],
    ids=str,
)
def test_a_trainer_restored_after_any_step_ends_with_the_same_weights(settings: dict[str, Any]) -> None:
    whole, states = trainer(**settings), []
    records = run(whole, states)
    assert len(states) == EPOCHS * STEPS
    for state in states:
        torch.manual_seed(99)
        other = trainer(**settings)
        other.restore(copy.deepcopy(state))
        rest = run(other)
        assert rest == records[-len(rest) :], "the epoch's means count the steps before the interruption"
        ours, theirs = weights(whole), weights(other)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_state_is_plain_enough_for_a_checkpoint(tmp_path: Any) -> None:
    of, states = trainer(ema=0.8), []
    run(of, states)
    torch.save(states[2], tmp_path / "c.pt")
    other = trainer(ema=0.8)
    other.restore(torch.load(tmp_path / "c.pt", weights_only=True))
    run(other)
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(of).items())


def test_a_step_is_plain_torch() -> None:
    """Against a loop written out: order, loss, optimizer and schedule are what they say."""
    of = trainer(warmup_epochs=0.0)
    run(of)
    torch.manual_seed(3)
    student = network()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    sampler, positions = BatchSampler(np.arange(32), 16, 8, seed=1), np.arange(39, 7, -1)
    for step in range(EPOCHS * STEPS):
        sampler.set_epoch(step // STEPS)
        chosen = positions[list(sampler)[step % STEPS]]
        inputs = torch.stack([DATASET[int(p)][0] for p in chosen])
        labels = torch.tensor([DATASET[int(p)][1] for p in chosen])
        logits = student.train()(inputs)
        soft = nn.functional.kl_div(
            (logits / 4).log_softmax(1), (TEACHER[chosen] / 4).log_softmax(1), log_target=True, reduction="batchmean"
        )
        loss = nn.functional.cross_entropy(logits, labels) + 16 * soft
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * step / (EPOCHS * STEPS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(of.student.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_average_is_what_is_validated_and_saved() -> None:
    of = trainer(ema=0.5)
    expected: dict[str, Tensor] = {}

    def follow() -> None:
        for name, tensor in of.student.named_parameters():
            now = tensor.detach().clone()
            expected[name] = now if name not in expected else 0.5 * expected[name] + 0.5 * now

    run_epoch(of, follow)
    assert of.module is not of.student
    for name, tensor in of.module.named_parameters():
        torch.testing.assert_close(tensor, expected[name])
    plain = trainer()
    assert plain.module is plain.student


def test_a_record_holds_the_means_of_the_epoch() -> None:
    of, losses = trainer(), []
    original = of.objective

    def listening(batch: LossInputs) -> dict[str, Tensor]:
        result = original(batch)
        losses.append({name: value.item() for name, value in result.items()})
        return result

    of.objective = listening  # pyright: ignore[reportAttributeAccessIssue]
    record = run_epoch(of)
    for name in ("loss", "ce", "kd"):
        assert record[name] == pytest.approx(sum(step[name] for step in losses) / STEPS)
    assert record["images_per_second"] == pytest.approx(32 / record["seconds"])
    assert record["loss"] == pytest.approx(record["ce"] + record["kd"], rel=1e-5)


def test_a_diverging_run_says_so() -> None:
    of = trainer(lr=1e30, schedule="constant", warmup_epochs=0.0)
    with pytest.raises(KdpipeError, match=r"diverged in epoch [1-9].*Lower --lr.*NaN in the inputs"):
        run(of)


def test_gradients_are_clipped_to_the_norm() -> None:
    of = trainer(lr=1.0, momentum=0.0, weight_decay=0.0, clip_grad=1e-3, warmup_epochs=0.0)
    before = [tensor.detach().clone() for tensor in of.student.parameters()]
    moved = []

    def measure() -> None:
        if not moved:
            pairs = zip(of.student.parameters(), before, strict=True)
            moved.append(torch.stack([(now.detach() - then).norm() for now, then in pairs]).norm())

    run_epoch(of, measure)
    assert float(moved[0]) == pytest.approx(1e-3, rel=1e-2)


# --- evaluation


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [7, 40, 64])
def test_evaluation_counts_every_sample_in_evaluation_mode(batch_size: int, training: bool) -> None:
    of = trainer()
    module = of.module.train(training)
    before = copy.deepcopy(module.state_dict())
    got = Cohort({0: of}, Failures()).evaluate(DATASET, [0], batch_size=batch_size)[0].accuracy(GROUPS)
    assert module.training is training
    assert all(part.training is training for part in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items()), "batch statistics"
    inputs = torch.stack([DATASET[i][0] for i in range(40)])
    labels = torch.tensor([DATASET[i][1] for i in range(40)])
    with torch.no_grad():
        correct = (copy.deepcopy(module).eval()(inputs).argmax(1) == labels).float()
    assert got.overall == pytest.approx(correct.mean().item())
    groups = torch.from_numpy(GROUPS)[labels]
    fractions = {name: correct[groups == g].mean().item() for g, name in enumerate(("head", "medium", "tail"))}
    assert {name: asdict(got)[name] for name in fractions} == pytest.approx(fractions)
