"""docs/sharing.md tells the truth: what it shows is run here, line by line."""

import re
import shlex
from pathlib import Path

import pytest

from .conftest import Cli

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"


def blocks(language: str, bucket: str) -> list[str]:
    text = PAGE.read_text().replace("s3://team-a", bucket)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_guide_run(
    cli: Cli, bucket: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ""
    for block in blocks("sh", bucket):
        for line in block.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "kdpipe"
            outcome = cli(*arguments)
            assert outcome.code == 0, f"{line}\n{outcome.err}"
            said += outcome.out
    for words in ("exactly", "team a", "CC-BY-4.0", "Whole: 0 error(s)"):
        assert words in said
    (block,) = blocks("python", bucket)
    exec(compile(block, str(PAGE), "exec"), {})
    assert "(256, 10)" in capsys.readouterr().out
    assert {path.name for path in Path("runs").iterdir()} == {"kd", "grkd"}
    for name in ("README.md", "croissant.json"):
        assert Path("digits-copy.kd", name).read_bytes() == Path("digits.kd", name).read_bytes(), "the card came along"
        assert not Path("ranks.kd", name).exists(), "it is of the whole store"
