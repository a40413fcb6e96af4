"""docs/reshape.md tells the truth: what it shows is run here, line by line; and mistakes end without a traceback."""

import json
import re
import shlex
from pathlib import Path

import pytest
from kdpipe.stores import Manifest

from .conftest import Cli

PAGE = Path(__file__).parents[2] / "docs" / "reshape.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_guide_run(cli: Cli, workplace: Path) -> None:
    (table,) = blocks("csv")
    Path("shapes.csv").write_text(table)
    Path("teacher.toml").write_text(blocks("toml")[0])
    said = ""
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "kdpipe"
            outcome = cli(*arguments)
            assert outcome.code == 0, f"{line}\n{outcome.err}"
            said += outcome.out
    assert "made from" in said
    assert "10 classes mapped to 2" in said
    samples = {path.name: Manifest.read(path).num_samples for path in Path().glob("*.kd")}
    assert samples["both.kd"] == samples["first.kd"] + samples["second.kd"] == 1797
    assert (samples["some.kd"], samples["few.kd"]) == (500, 200)
    assert samples["round.kd"] == samples["round-only.kd"]
    (python,) = blocks("python")
    exec(compile(python, str(PAGE), "exec"), {})
    part = Path("views-23.kd")
    assert {path: cli("store", "verify", path, "--deep").code for path in Path().glob("*.kd")} == {
        path: 3 if path == part else 0 for path in Path().glob("*.kd")
    }
    views = [Manifest.read(Path(name)) for name in ("views-01.kd", "views.kd")]
    assert [one.num_views for one in views] == [2, 4]
    assert views[0].store_id == views[1].store_id
    finished = cli("store", "subset", "both.kd", "--rows", "0-99,500-899", "--out", "some.kd", "--json")
    assert finished.code == 0
    (parent,) = json.loads(finished.out)["parents"]
    assert parent["change"] == "subset: rows 0-99,500-899"
    assert [one["store_id"] for one in parent["parents"]] == [
        Manifest.read(Path(name)).store_id for name in ("first.kd", "second.kd")
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["merge", "a.kd", "--out", "b.kd"], 2, "at least two"),
        (["merge", "a.kd", "a.kd", "--out", "b.kd"], 3, "share 100 or more sample"),
        (["merge", "a.kd", "nothing.kd", "--out", "b.kd"], 3, "Is this a kdpipe store"),
        (["subset", "a.kd", "--out", "b.kd"], 2, "Nothing is left out"),
        (["subset", "a.kd", "--rows", "5-2", "--out", "b.kd"], 2, "no span"),
        (["subset", "a.kd", "--rows", "5", "--out", "s3://bucket/b.kd"], 2, "then push it"),
        (["subset", "a.kd", "--classes", "1,2", "--out", "b.kd"], 3, "--drop-others"),
        (["regroup", "a.kd", "--groups", "thirds", "--out", "b.kd"], 2, "already"),
        (["regroup", "a.kd", "--groups", "thirdz", "--out", "b.kd"], 2, "Did you mean 'thirds'"),
        (["map-classes", "a.kd", "--map", "nothing.csv", "--out", "b.kd"], 2, "cannot be read"),
    ],
)
def test_mistakes(cli: Cli, workplace: Path, arguments: list[str], code: int, says: str) -> None:
    assert cli("extract", "--data", "digits", "--teacher", "python:my_teachers:teacher", "--out", "a.kd").code == 0
    outcome = cli("store", *arguments)
    assert outcome.code == code
    assert says in outcome.err
    assert not Path("b.kd").exists()


AUGMENT = "crop-flip,size=8,padding=1,flip=0.5"


def test_augmented_views_are_replayed_after_all_of_it(cli: Cli, workplace: Path) -> None:
    """Views are drawn by sample id, so that rows may get other numbers, and classes other names."""
    teacher = ["--teacher", "python:my_teachers:teacher", "--views", "2"]
    for name, split in (("a.kd", "train"), ("b.kd", "test")):
        data = ["--data", f"digits,split={split}", "--augment", AUGMENT]
        assert cli("extract", *data, *teacher, "--out", name).code == 0
    Path("m.toml").write_text("[classes]\nlow = [0, 1, 2, 3, 4]\nhigh = [5, 6, 7, 8]\n")
    for command in (
        ["merge", "a.kd", "b.kd", "--groups", "thirds", "--out", "c.kd"],
        ["subset", "c.kd", "--per-class", "30", "--out", "d.kd"],
        ["map-classes", "d.kd", "--map", "m.toml", "--drop-others", "--out", "e.kd"],
        ["regroup", "e.kd", "--groups", "counts:130,10", "--out", "f.kd"],
        ["verify", "f.kd", "--deep"],
    ):
        outcome = cli("store", *command)
        assert outcome.code == 0, outcome.err
    assert Manifest.read(Path("f.kd")).array_names == "logits, ranks, boxes, flips"
    trained = cli(
        "distill", "--store", "f.kd", "--data", "digits,class_map=m.toml", "--student", "kdpipe:convnet_tiny",
        "--loss", "kd", "--epochs", "2", "--out", "run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    spoiled = cli(
        "distill", "--store", "f.kd", "--data", "digits", "--student", "kdpipe:convnet_tiny", "--loss", "kd",
        "--out", "other",
    )  # fmt: skip
    assert (spoiled.code, "2 in the store, 10 in the data" in spoiled.err) == (3, True)


def test_rows_that_are_mixed_with_others_keep_their_numbers(cli: Cli, workplace: Path) -> None:
    teacher = ["--teacher", "python:my_teachers:teacher", "--views", "2"]
    data = ["--data", "digits,split=train", "--augment", f"{AUGMENT},mixup=0.2"]
    assert cli("extract", *data, *teacher, "--out", "a.kd").code == 0
    refused = cli("store", "subset", "a.kd", "--rows", "0-99", "--out", "b.kd")
    assert (refused.code, "mixed with other rows" in refused.err) == (3, True)
    assert cli("store", "subset", "a.kd", "--views", "1", "--out", "b.kd").code == 0
    assert cli("store", "verify", "b.kd", "--deep").code == 0
