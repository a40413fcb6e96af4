"""Losses of one's own, from a module of the user's."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from kdpipe.pipeline.losses import LossInputs, Objective, parse_loss
from kdpipe.stores.errors import UsageError

STUDENT, TEACHER = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).unbind()
LABELS = torch.tensor([0, 5, 2, 2])
BATCH = LossInputs(student_logits=STUDENT, labels=LABELS, logits=TEACHER, ranks=TEACHER.argsort(1, descending=True))
MIXED = dataclasses.replace(
    BATCH, labels=None, mixed_labels=torch.stack([LABELS, LABELS.flip(0)], dim=1), label_shares=torch.full((4,), 0.7)
)

OWN_LOSS = """
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from kdpipe.pipeline.losses import Loss, LossInputs


@dataclass(frozen=True, kw_only=True)
class focal(Loss):
    name: ClassVar[str] = "focal"
    replaces_ce: ClassVar[bool] = True

    gamma: float = 2.0

    def __call__(self, batch: LossInputs):
        loss = F.cross_entropy(batch.student_logits, batch.labels, reduction="none")
        return ((1 - (-loss).exp()) ** self.gamma * loss).mean()


@dataclass(frozen=True, kw_only=True)
class unreduced(Loss):
    name: ClassVar[str] = "unreduced"

    def __call__(self, batch: LossInputs):
        return batch.student_logits.square()


@dataclass(frozen=True, kw_only=True)
class forgetful(Loss):
    name: ClassVar[str] = "forgetful"

    def __call__(self, batch: LossInputs):
        return batch.logits.square().mean()


@dataclass(frozen=True, kw_only=True)
class silent(Loss):
    name: ClassVar[str] = "silent"

    def __call__(self, batch: LossInputs):
        batch.student_logits.square().mean()


@dataclass(frozen=True, kw_only=True)
class failing(Loss):
    name: ClassVar[str] = "failing"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "ranks"})

    def __call__(self, batch: LossInputs):
        raise ValueError("out of luck")


@dataclass(frozen=True, kw_only=True)
class mistyped(Loss):
    name: ClassVar[str] = "mistyped"
    needs: ClassVar[frozenset[str]] = frozenset({"logit"})


class nameless(Loss):
    pass


class undecorated(Loss):
    name = "undecorated"
    gamma: float = 2.0


gamma = 3
def made(): ...
"""


def test_a_loss_of_ones_own_is_named_by_its_module(module):
    module("mylosses", OWN_LOSS)
    objective = Objective.parse(["python:mylosses:focal,gamma=0,weight=2", "kd"])
    result = objective(BATCH)
    assert list(result) == ["loss", "focal", "kd"]
    torch.testing.assert_close(result["focal"], 2 * F.cross_entropy(STUDENT, LABELS))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("unreduced", r"'unreduced' gives \(4, 6\) for a batch\. It must give one number"),
        ("silent", r"'silent' gives a NoneType for a batch\. It must give one number"),
        ("failing", r"The loss 'failing' raised ValueError: out of luck \(line \d+ of .*mylosses\.py\)\.$"),
        (
            "forgetful",
            r"'forgetful' raised AttributeError: 'NoneType' .* Not in the needs .* None: logits\. Add what it reads\.$",
        ),
        ("focal", r"'focal' raised TypeError: .* labels is None: these inputs are mixed .* Take mixed_labels and"),
    ],
)
def test_a_loss_of_ones_own_that_fails_is_named(module, loss, message):
    module("mylosses", OWN_LOSS)
    batch = MIXED if loss == "focal" else dataclasses.replace(BATCH, logits=None)
    with pytest.raises(UsageError, match=message):
        Objective.parse([f"python:mylosses:{loss}"])(batch)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python:mylosses:focal,gama=2", "Unknown option of 'python:mylosses:focal' 'gama'. Did you mean 'gamma'"),
        ("python:mylosses:focal,gamma=big", "'python:mylosses:focal,gamma=big' cannot be read"),
        ("python:mylosses:focal,weight=-1", "focal: weight is -1.0"),
        (
            "python:mylosses:fokal",
            "Unknown loss .* Did you mean 'focal'.*Known: failing, focal, forgetful, .* unreduced.$",
        ),
        ("python:mylosses:made", "'python:mylosses:made' is no loss.*extends kdpipe.pipeline.losses.Loss"),
        ("python:mylosses:nameless", "'python:mylosses:nameless' is no loss.*has a name"),
        ("python:mylosses:undecorated,gamma=1", "'python:mylosses:undecorated' is no loss.*@dataclass above the class"),
        (
            "python:mylosses:mistyped",
            "'mistyped' has 'logit' in its needs. These are arrays of the store: logits, ranks",
        ),
        ("python:mylosses", "does not name a loss"),
        ("python:no_such_module:focal", "no Python module 'no_such_module'"),
    ],
)
def test_a_loss_of_ones_own_that_is_none(module, text, message):
    module("mylosses", OWN_LOSS)
    with pytest.raises(UsageError, match=message):
        parse_loss(text)
