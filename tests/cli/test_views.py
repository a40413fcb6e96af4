"""docs/views.md tells the truth: its commands run, one after the other; and what the command line refuses."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kdpipe.cli.main import cli
from kdpipe.stores import KdpipeError, open_store

PAGE = (Path(__file__).parents[2] / "docs" / "views.md").read_text()


def run(command: str) -> Result:
    program, *arguments = shlex.split(command)
    assert program == "kdpipe"
    return CliRunner().invoke(cli, arguments, prog_name="kdpipe")


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = {kind: re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for kind in ("sh", "toml")}
    (toml,) = blocks["toml"]
    Path("jitter.toml").write_text(toml)
    commands = "".join(blocks["sh"]).replace("\\\n", " ").splitlines()
    assert len(commands) == 8
    for command in commands:
        done = run(command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert open_store("digits.kd").manifest.num_views == 3
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(code, {})
    store = open_store("jittered.kd")
    assert (store.manifest.num_views, len(store.manifest.view_arrays)) == (2, 5)
    assert sum(array.row_bytes for array in store.manifest.view_arrays) == 41


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--views 2", "Without --augment"),
        ("--augment crop-flip,size=8,paddin=2", "Did you mean 'padding'"),
        ("--augment rrc-flap,size=8", "Did you mean 'rrc-flip'"),
    ],
)
def test_bad_views_are_refused_before_anything_is_loaded(tmp_path: Path, options: str, problem: str) -> None:
    done = run(f"kdpipe extract --data nowhere --teacher nothing --out {tmp_path / 'a.kd'} {options}")
    assert isinstance(done.exception, KdpipeError)
    assert done.exception.exit_code == 2
    assert problem in str(done.exception)


@pytest.mark.parametrize("option", ["views", "size"])
def test_distill_takes_views_and_size(tmp_path: Path, option: str) -> None:
    done = run(f"kdpipe distill --store {tmp_path} --student kdpipe:convnet_tiny --out {tmp_path / 'run'} --{option} 0")
    assert done.exit_code == 2
    assert "is not in the range" in done.output
