"""A training gives every loss what it asks for, a loss of the user's own among them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.inputs import InputDataset
from kdpipe.pipeline.losses import LOSSES
from kdpipe.pipeline.models import load_model
from kdpipe.pipeline.specs import Spec
from kdpipe.pipeline.training.store_statistics import teacher_masses
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import UsageError, open_store

STUDENT = "kdpipe:convnet_tiny"
IN_STORE, DATA = "digits,split=train,imbalance=5", "digits,split=train,imbalance=3"

PROBE = """
from dataclasses import dataclass
from typing import ClassVar

from kdpipe.pipeline.losses import Loss

SEEN = []


@dataclass(frozen=True, kw_only=True)
class Probe(Loss):
    name: ClassVar[str] = "probe"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "ranks"})

    factor: float = 1.0

    def __call__(self, batch):
        SEEN.append(batch)
        return self.factor * batch.student_logits.square().mean()

    @property
    def mass_temperature(self):
        return 2.5
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    torch.manual_seed(0)
    torch.save(load_model(Spec.parse(STUDENT), num_classes=10, in_channels=1).module.state_dict(), root / "t.pt")
    extract(ExtractConfig(data=IN_STORE, teacher=f"{STUDENT},weights={root / 't.pt'}", out=root / "d.kd"))
    return root / "d.kd"


def config(store: Path, out: Path, *losses: str) -> DistillConfig:
    return DistillConfig(
        student=STUDENT, data=DATA, store=store, out=out, loss=losses, epochs=2, optimiser=OptimiserConfig(lr=1e-3)
    )  # fmt: skip


def test_every_loss_trains_from_a_store(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = distill(config(store, tmp_path / "run", *(name for name in LOSSES if name != "mixkd")))  # of mixed views
    assert math.isfinite(result.summary["train_loss"])
    [warning] = [record.getMessage() for record in caplog.records if "warms up" in record.getMessage()]
    assert "'dkd' warms up over 20 epochs and the run has 2: its weight is 8 %" in warning  # (1 + 2) / 20 / 2


def test_a_loss_of_ones_own_is_given_all_there_is(
    store: Path, tmp_path: Path, module: Callable[[str, str], None]
) -> None:
    module("probing", PROBE)
    distill(config(store, tmp_path / "run", "python:probing:Probe,factor=0.5,weight=0.1"))
    import probing  # pyright: ignore[reportMissingImports]

    opened, samples = open_store(store), load_data(DATA)
    joined = opened.join(InputDataset(samples, Preprocessing()), samples.sample_ids)
    assert len(joined) < len(samples)
    counts = np.bincount(samples.labels[joined.positions], minlength=10)
    mass = teacher_masses(opened, joined.rows, [2.5])[2.5]
    steps = len(probing.SEEN) // 2
    assert [batch.epoch for batch in probing.SEEN] == [0] * steps + [1] * steps
    for batch in probing.SEEN:
        assert batch.class_counts.tolist() == counts.tolist()
        assert torch.equal(batch.teacher_mass[2.5].classes, mass.classes)
        assert torch.equal(batch.teacher_mass[2.5].groups, mass.groups)
        assert batch.logits.shape == batch.ranks.shape == batch.student_logits.shape


def test_a_loss_of_counts_needs_no_store(tmp_path: Path) -> None:
    settings = {"student": STUDENT, "data": DATA, "epochs": 1, "optimiser": OptimiserConfig(lr=1e-3)}
    plain, balanced = (
        distill(DistillConfig(**settings, out=tmp_path / loss, loss=(loss,))).summary["train_loss"]
        for loss in ("ce", "balanced-softmax")
    )
    assert plain != balanced


def test_a_batch_too_small_for_a_loss_says_so(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ckd: the batch holds 128 samples\. Two sets of size 100 need 200"):
        distill(config(store, tmp_path / "run", "ckd,size=100"))
