"""The recipes hold together: their keys are flags, their specs are known, and each is run on tiny data of its shape."""

import re
from pathlib import Path

import click
import pytest
from kdpipe.cli.distill import distill
from kdpipe.cli.extract import extract
from kdpipe.pipeline.augment import Augmentation
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.recipes import load_recipe, recipe_names
from kdpipe.pipeline.specs import Spec
from kdpipe.stores.errors import UsageError

ROOT = Path(__file__).parents[2]
EVERY_RECIPE = pytest.mark.parametrize("name", recipe_names())


def flags(command: click.Command) -> set[str]:
    return {flag.removeprefix("--") for parameter in command.params for flag in parameter.opts}


@EVERY_RECIPE
def test_keys_are_flags(name):
    parts = load_recipe(name).parts
    assert set(parts["teacher"]) <= flags(distill)
    assert set(parts["extract"]) <= flags(extract)
    assert set(parts["distill"]) <= flags(distill)


@EVERY_RECIPE
def test_specs_can_be_read_and_stages_fit(name):
    recipe = load_recipe(name)
    teacher, extracted, student = (recipe.parts[part] for part in ("teacher", "extract", "distill"))
    assert teacher["data"] == extracted["data"]
    assert teacher["val"] == student["val"]
    architecture = Spec.parse(extracted["teacher"])
    assert f"{architecture.name}:{architecture.location}" == teacher["student"]
    assert Augmentation.parse(extracted["augment"]) == Augmentation.parse(teacher["augment"])
    assert recipe.known
    assert recipe.ours


@EVERY_RECIPE
def test_what_the_losses_need_is_stored(name):
    parts = load_recipe(name).parts
    objective = Objective.parse(parts["distill"]["loss"])
    assert objective.needs - {"class_groups", "labels"} <= set(parts["extract"].get("write", ["logits", "ranks"]))


@EVERY_RECIPE
def test_is_described(name):
    text = (ROOT / "docs" / "recipes.md").read_text()
    recipe = load_recipe(name)
    assert f"`{name}`" in text
    assert re.search(r"https?://", recipe.about + " ".join(recipe.known))


def test_extends_keeps_what_it_does_not_name():
    base, other = load_recipe("ltkd-cifar100-lt"), load_recipe("ltkd-cifar100-lt-wrn-shufflenet")
    assert other.parts["distill"] == {**base.parts["distill"], "student": "kdpipe:shufflenetv1", "lr": 0.01}


def test_what_is_known_of_one_pair_is_not_said_of_another():
    """LTKD's 51.08 is ResNet32x4 -> ResNet8x4 on CIFAR-100-LT, and nothing else's."""
    named = [name for name in recipe_names() if "51.08" in " ".join(load_recipe(name).known)]
    assert named == ["ltkd-cifar100-lt"]


@EVERY_RECIPE
def test_every_choice_of_a_loss_is_marked_as_ours(name):
    recipe = load_recipe(name)
    (loss,) = recipe.parts["distill"]["loss"]
    options = Spec.parse(loss).options
    assert options
    for option, value in options.items():
        symbol = "T" if option == "temperature" else option
        assert re.search(rf"\b{symbol} = (\w+ = )?{value}\b", " ".join(recipe.ours)), f"{symbol} = {value}"


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UsageError, match="ltkd-cifar100-lt"):
        load_recipe("ltkd-cifar10-lt")
