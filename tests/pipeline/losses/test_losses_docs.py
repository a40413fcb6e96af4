"""docs/losses.md is the code's: its table, its codecs, its example."""

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from kdpipe.pipeline.losses import LOSSES, Loss, LossInputs, TeacherMass, parse_loss
from kdpipe.stores import UsageError
from kdpipe.stores.codecs import CODECS, LogitCodec

PAGE = (Path(__file__).parents[3] / "docs" / "losses.md").read_text()
NAMES = {
    "labels": "labels",
    "logits": "logits",
    "ranks": "ranks",
    "class_counts": "counts",
    "class_groups": "groups",
    "teacher_mass": "masses",
}
WHERE = {
    "labels": "data",
    "logits": "payload",
    "ranks": "payload",
    "counts": "data",
    "groups": "class table",
    "masses": "cache",
}


def table(title: str) -> list[list[str]]:
    """The rows of the first table of a section."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


ROWS = {row[0].strip("`"): row for row in table("The table")}


def batch(**changes: Any) -> LossInputs:
    student, teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).unbind()
    full = LossInputs(
        student_logits=student,
        labels=torch.tensor([0, 1, 2, 3]),
        logits=teacher,
        ranks=teacher.argsort(1, descending=True),
        class_groups=torch.tensor([0, 0, 1, 1, 2, 2]),
        class_counts=torch.ones(6),
        teacher_mass={4.0: TeacherMass(classes=torch.full((6,), 1 / 6), groups=torch.full((3,), 1 / 3))},
    )
    return dataclasses.replace(full, **changes)


def test_the_table_lists_the_registry() -> None:
    assert set(ROWS) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_needs(name: str) -> None:
    needed = set()
    for attribute, word in NAMES.items():
        try:
            LOSSES[name]()(batch(**{attribute: {} if attribute == "teacher_mass" else None}))
        except UsageError:
            needed.add(word)
    assert needed == set(ROWS[name][2].split(", "))
    assert LOSSES[name].needs == needed & {"logits", "ranks"}
    assert {WHERE[word] for word in needed} == set(ROWS[name][3].split(", "))


@pytest.mark.parametrize("name", LOSSES)
def test_under_which_codec_a_loss_is_exact(name: str) -> None:
    bounded = LOSSES[name].top_temperature is not Loss.top_temperature
    of_logits = f"`float32`; `topk`: {'bound' if bounded else 'refused'}"
    assert ROWS[name][4] == (of_logits if "logits" in LOSSES[name].needs else "every codec")


@pytest.mark.parametrize("name", LOSSES)
def test_the_options_and_their_defaults(name: str) -> None:
    stated = dict(cell.partition("=")[::2] for cell in re.findall(r"`([^`]+)`", ROWS[name][5]))
    defaults = {field.name: field.default for field in dataclasses.fields(LOSSES[name])}
    assert defaults.pop("weight") == 1
    if "warmup_epochs" not in stated:
        assert defaults.pop("warmup_epochs") == 0
    assert set(stated) == set(defaults)
    for option, text in stated.items():
        if isinstance(defaults[option], float | int):
            assert float(Fraction(text)) == defaults[option]
            continue
        choices = text.split(r"\|")
        assert choices[0] == (defaults[option] or "")
        for choice in filter(None, choices):
            parse_loss(f"{name},{option}={choice}")


@pytest.mark.parametrize("name", LOSSES)
def test_what_becomes_of_cross_entropy(name: str) -> None:
    assert ROWS[name][6] == ("is it" if name == "ce" else "replaced" if LOSSES[name].replaces_ce else "added")


def test_a_paper_is_the_one_its_function_cites() -> None:
    for name, row in ROWS.items():
        if link := re.search(r"\((https://[^)]+)\)", row[1]):
            module = __import__(LOSSES[name].__module__, fromlist=["_"])
            assert link[1] in Path(str(module.__file__)).read_text(), name


def test_the_example_is_a_loss(module: Any) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    module("mylosses", code)
    (spec,) = re.findall(r"`(python:mylosses:[^`]+)`", PAGE)
    loss = parse_loss(spec)
    assert torch.isfinite(loss(batch()))
    assert loss.gamma == 1.5  # pyright: ignore[reportAttributeAccessIssue]


def test_every_spec_on_the_page_can_be_read() -> None:
    shown = re.findall(rf"`((?:--loss )?(?:{'|'.join(LOSSES)})[ ,][^`]*=[^`]+)`", PAGE)
    assert len(shown) >= 5
    for text in shown:
        for spec in text.removeprefix("--loss ").split(" --loss "):
            parse_loss(spec)


def test_the_loss_of_ones_own_is_one(module: Callable[[str, str], None]) -> None:
    code = re.search(r"```python\n(.*?class Focal.*?)```", PAGE, re.DOTALL)
    assert code is not None
    module("mylosses", code[1])
    loss = parse_loss("python:mylosses:Focal,gamma=0")
    torch.testing.assert_close(loss(batch()), LOSSES["ce"]()(batch()))
    mixed = batch(labels=None, mixed_labels=torch.tensor([[0, 1]] * 4), label_shares=torch.full((4,), 0.5))
    with pytest.raises(UsageError, match="'focal' needs one label for every sample"):
        loss(mixed)


def test_the_codecs_are_the_stores() -> None:
    """Logits come back from some codecs, and then every loss can be computed; the others are said to be refused."""
    header = next(line for line in PAGE.splitlines() if line.startswith("| the loss needs"))
    columns = [re.findall(r"`([a-z0-9]+)`", cell) for cell in header.split("|")[2:-1]]
    assert {name for column in columns for name in column} == set(CODECS)
    rows = {row[0]: row[1:] for row in table("What a codec does to them")}
    for column, answer in zip(columns, rows["logits: all others"], strict=True):
        for name in column:
            assert (answer == "refused") is not issubclass(CODECS[name], LogitCodec)


def test_who_takes_the_best_classes_alone() -> None:
    (row,) = (row for row in table("What a codec does to them") if row[-1] == "lower bound")
    takers = {name for name, loss in LOSSES.items() if loss.top_temperature is not Loss.top_temperature}
    assert set(re.findall("`([a-z-]+)`", row[0])) == takers
