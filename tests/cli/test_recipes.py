"""The commands of docs/recipes.md, for every recipe, on a few images of its shape."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kdpipe.pipeline.recipes import load_recipe, recipe_names

TINY = """
import numpy as np

class Tiny:
    def __init__(self, num_classes, size):
        generator = np.random.default_rng(0)
        self.images = generator.integers(0, 256, (6, 3, size, size), np.uint8)
        self.labels = np.arange(6) % num_classes
        self.classes = [str(k) for k in range(num_classes)]

    def __len__(self):
        return 6

    def __getitem__(self, position):
        return self.images[position], int(self.labels[position])
"""
# the shape of each data set: classes, pixels a side
SHAPES = {"cifar100": (100, 32), "tinyimagenet": (200, 64), "imagenet": (1000, 224)}
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def commands() -> list[list[str]]:
    block = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in "".join(block).splitlines()]


@pytest.mark.parametrize("name", recipe_names())
def test_runs(name, cli, workplace):
    (workplace / "tiny.py").write_text(TINY)
    num_classes, size = SHAPES[next(word for word in name.split("-") if word in SHAPES)]
    data = f"python:tiny:Tiny,num_classes={num_classes},size={size}"
    recipe, small = load_recipe(name), ["--epochs", "1", "--batch-size", "6", "--lr", "0.001", "--val", data]
    lines = commands()
    assert [line[1] for line in lines] == ["distill", "extract", "distill", "distill", "sweep"]
    for line in lines if name == "ltkd-cifar100-lt" else lines[:3]:
        arguments = [word.replace("ltkd-cifar100-lt", name, 1) for word in line[1:]]
        outcome = cli(*arguments, "--data", data, *(["--views", "2"] if line[1] == "extract" else small))
        assert outcome.code == 0, outcome.err
    assert recipe.parts["distill"]["student"] in (workplace / "student" / "config.json").read_text()


def test_a_sum_of_losses_is_one_to_a_sweep(cli, workplace, monkeypatch):
    recipe = load_recipe("ltkd-cifar100-lt")
    summed = {**recipe.parts, "distill": {**recipe.parts["distill"], "loss": ["ce", "logit-adjustment,tau=0.5"]}}
    monkeypatch.setattr("kdpipe.pipeline.recipes.load_recipe", lambda _: replace(recipe, parts=summed))
    data = ["--student", "kdpipe:convnet_tiny", "--data", "digits,split=train", "--val", "digits,split=test"]
    outcome = cli("sweep", "--recipe", "any", *data, "--epochs", "1", "--out", "sweep")
    assert outcome.code == 0, outcome.err
    table = pq.read_table("sweep/trials.parquet")
    assert table["loss"].to_pylist() == ["ce + logit-adjustment,tau=0.5"]
    assert '"weight_decay": 0.0005' in (workplace / "sweep" / "config.json").read_text()


def test_a_flag_wins_over_the_recipe(cli, workplace):
    outcome = cli("distill", "--recipe", "ltkd-cifar100-lt", "--epochs", "x", "--out", "run")
    assert outcome.code == 2
    assert "epochs" in outcome.err


@pytest.mark.parametrize(
    ("recipe", "hint"), [("ltkd-cifar10-lt", "ltkd-cifar100-lt"), ("ltkd-cifar100-lt/techer", "teacher")]
)
def test_a_wrong_name_suggests_the_nearest(recipe, hint, cli, workplace):
    outcome = cli("distill", "--recipe", recipe, "--out", "run")
    assert outcome.code == 2
    assert hint in outcome.err


def test_the_part_of_another_command_is_refused(cli):
    outcome = cli("extract", "--recipe", "ltkd-cifar100-lt/teacher")
    assert outcome.code == 2
    assert "The part 'teacher' of a recipe is for kdpipe distill." in outcome.err
