"""docs/convert.md and the recipes of docs/format.md tell the truth: what they show is run here, line by line."""

import json
import re
import shlex
from pathlib import Path

import pytest
from kdpipe.stores import Manifest

from .conftest import Cli

DOCS = Path(__file__).parents[2] / "docs"
EXTRACT = ("extract", "--data", "digits,max_per_class=12", "--teacher", "python:my_teachers:teacher", "--device", "cpu")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_guide_run(cli: Cli, workplace: Path) -> None:
    assert cli(*EXTRACT, "--out", "digits.kd", "--chunk-rows", "50").code == 0
    said = []
    for block in blocks("convert.md", "sh"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "kdpipe"
            outcome = cli(*arguments)
            assert outcome.code == 0, f"{line}\n{outcome.err}"
            said.append(outcome.out)
    assert "Exact: read back" in said[0]
    assert "Not exact: logits are off by up to" in said[1]
    assert "KL" in said[1]
    found = json.loads(said[2])
    assert found["exact"] is False
    assert found["identical"] == ["ranks"]
    assert found["manifest"]["payload_format"] == "parquet"
    assert found["fidelity"]["top1_flips"] == 0
    assert "stay as approximate" in found["remarks"][0]
    assert [p["change"] for p in found["manifest"]["parents"]] == [
        "codec float16 in the place of int8+zstd; format parquet in the place of zarr"
    ]
    for path in workplace.glob("*.kd"):
        assert cli("store", "verify", path, "--deep").code == 0


def test_the_recipes_for_readers_without_kdpipe_run(cli: Cli, workplace: Path) -> None:
    for spelling, name in (("parquet", "digits.kd"), ("parquet-lists", "digits-lists.kd")):
        assert cli(*EXTRACT, "--format", spelling, "--out", name, "--chunk-rows", "50").code == 0
        assert Manifest.read(Path(name)).payload_format == spelling
    recipes = blocks("format.md", "python")
    assert len(recipes) == 3
    for recipe in recipes:
        exec(compile(recipe, "docs/format.md", "exec"), {})


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["a.kd", "--out", "b.kd"], 2, "format zarr already"),
        (["a.kd", "--out", "a.kd", "--format", "parquet"], 2, "a store never changes"),
        (["a.kd", "--out", "b.kd", "--format", "arrow"], 2, "parquet-lists"),
        (["a.kd", "--out", "b.kd", "--codec", "int9"], 2, "int8"),
        (["a.kd", "--out", "b.kd", "--codec", "factorised"], 3, "Extract again with --codec factorised"),
        (["nothing.kd", "--out", "b.kd", "--format", "parquet"], 3, "Is this a kdpipe store"),
    ],
)
def test_mistakes_are_clear(cli: Cli, workplace: Path, arguments: list[str], code: int, says: str) -> None:
    assert cli(*EXTRACT, "--out", "a.kd").code == 0
    outcome = cli("store", "convert", *arguments)
    assert (outcome.code, says in outcome.err) == (code, True), outcome.err
    assert not (workplace / "b.kd").exists()
