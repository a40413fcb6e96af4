"""The space of a sweep: every setting once, values of the right type, and what cannot be is refused by name."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline import DistillConfig, OptimiserConfig
from kdpipe.pipeline.sweep import SweepConfig
from kdpipe.pipeline.sweep.space import Space, parse_settings, setting_texts
from kdpipe.stores.errors import UsageError

BASE = DistillConfig(student="kdpipe:convnet_tiny", data="digits", val="digits", out=Path("s"), epochs=7)


def space(**settings: object) -> Space:
    return Space(SweepConfig(**{"base": BASE, **settings}))  # pyright: ignore[reportArgumentType]


def test_the_grid_is_every_combination_once() -> None:
    points = space(
        students=("kdpipe:convnet_tiny", "kdpipe:resnet20"), losses=("ce", "kd", "kd + grkd,weight=0.1"),
        settings={"lr": ("0.1", "0.05"), "loss.temperature": ("2", "4")},
    ).points()  # fmt: skip
    # two students x two rates x (one for ce, which has no temperature, and two for each of the others)
    assert len(points) == 2 * 2 * (1 + 2 + 2)
    assert len({tuple(point.items()) for point in points}) == len(points)
    assert all(("loss.temperature" in point) == (point["loss"] != "ce") for point in points)


def test_a_point_and_a_seed_are_the_configuration_of_a_run() -> None:
    config = space(
        losses=("kd + grkd,weight=0.1",),
        settings={
            "lr": ("0.02",), "milestones": ("3,5",), "schedule": ("step",), "ema": ("none",), "workers": ("auto",),
            "epochs": ("9",), "loss.temperature": ("2",), "loss.grkd.tau": ("0.5",), "batch_size": ("32",),
        },
    )  # fmt: skip
    [point] = config.points()
    run = config.trial(point, 3, Path("there"))
    assert run.loss == ("kd,temperature=2", "grkd,weight=0.1,tau=0.5")
    assert run.optimiser == OptimiserConfig(lr=0.02, milestones=(3, 5), schedule="step")
    assert (run.seed, run.out, run.epochs, run.batch_size, run.ema) == (3, Path("there"), 9, 32, None)
    assert run.data == BASE.data


def test_a_loss_whose_name_has_a_hyphen_can_be_named() -> None:
    config = space(losses=("logit-adjustment",), settings=parse_settings(["loss.logit-adjustment.tau=0.5"]))
    assert config.trial(config.points()[0], 0, Path("there")).loss == ("logit-adjustment,tau=0.5",)


OWN_LOSS = """
from dataclasses import dataclass
from typing import ClassVar

from kdpipe.pipeline.losses import Loss


@dataclass(frozen=True, kw_only=True)
class {name}(Loss):
    name: ClassVar[str] = "{name}-loss"
    gamma: float = 2.0
"""


def test_losses_of_ones_own_are_told_apart_by_their_names(module: Callable[[str, str], None]) -> None:
    for name in ("one", "other"):
        module(name, OWN_LOSS.format(name=name))
    config = space(
        losses=("python:one:one + python:other:other",),
        settings=parse_settings(["loss.one-loss.gamma=1", "loss.other-loss.gamma=3"]),
    )
    run = config.trial(config.points()[0], 0, Path("there"))
    assert run.loss == ("python:one:one,gamma=1", "python:other:other,gamma=3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settings": {"learning_rate": ("1",)}}, "Unknown option to set 'learning_rate'"),
        ({"settings": {"epoch": ("1",)}}, "Did you mean 'epochs'?"),
        ({"settings": {"loss.temprature": ("1",)}, "losses": ("kd",)}, "Did you mean 'loss.temperature'?"),
        ({"settings": {"loss.temperature": ("1",)}, "losses": ("ce",)}, "Unknown option of these losses"),
        ({"settings": {"loss.kd.tau": ("1",)}, "losses": ("kd + grkd",)}, "Unknown option of these losses"),
        ({"settings": {"seed": ("1", "2")}}, "Give --seeds"),
        ({"settings": {"loss": ("kd",)}}, "Give --loss several times"),
        ({"settings": {"lr": ()}}, "the grid is empty"),
        ({"settings": {"lr": ("0.1", "")}}, "the grid is empty"),
        ({"settings": {"lr": ("0.1", "0.1")}}, "gives a value twice"),
        ({"losses": ("gkrd",)}, "Did you mean 'grkd'?"),
        ({"metric": "accuracy"}, "Unknown metric"),
        ({"search": "tpe"}, "Give --search tpe and --trials N"),
        ({"trials": 3}, "Give --search tpe and --trials N"),
        ({"losses": ("kd + ",)}, "The sum of losses 'kd + ' lacks one"),
        ({"losses": ("kd+grkd",)}, "in a sweep, ' + ' between them"),
        ({"cohort": 0}, "at least 1"),
        ({"base": DistillConfig(student="s", data="digits", out=Path("s"))}, "Give --val SPEC"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        space(**settings)


@pytest.mark.parametrize(
    ("settings", "losses", "message"),
    [
        ({"lr": ("fast",)}, ("kd",), "--set lr=fast cannot be read: it must be a number"),
        ({"lr": ("-1",)}, ("kd",), "must be above 0"),
        ({"order": ("sorted",)}, ("kd",), "--set order=sorted cannot be read"),
        ({"loss.temperature": ("2",)}, ("kd,temperature=4",), "Leave it out of one of them"),
    ],
)
def test_a_value_that_cannot_be_is_refused(settings: dict, losses: tuple, message: str) -> None:
    of = space(settings=settings, losses=losses)
    with pytest.raises(UsageError, match=message):
        of.trial(of.points()[0], 0, Path("there"))


def test_values_with_commas_are_separated_by_semicolons() -> None:
    given = ["lr=0.1, 0.05", "milestones=10,20;15,25", "weight-decay=0", "groups=counts:100,20;"]
    assert parse_settings(given) == {
        "lr": ("0.1", "0.05"), "milestones": ("10,20", "15,25"), "weight_decay": ("0",), "groups": ("counts:100,20",),
    }  # fmt: skip
    for wrong in (["lr"], ["=1"], ["lr=1", "lr=2"]):
        with pytest.raises(UsageError, match="--set"):
            parse_settings(wrong)


VALUES = st.text(st.characters(exclude_characters=";", codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=1)


@given(st.dictionaries(st.from_regex(r"[a-z]+(\.[a-z]+)?", fullmatch=True), st.lists(VALUES, min_size=1).map(tuple)))
def test_what_a_sweep_records_can_be_read_again(settings: dict[str, tuple[str, ...]]) -> None:
    assert parse_settings(setting_texts(settings)) == settings
