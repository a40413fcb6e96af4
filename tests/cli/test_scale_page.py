"""docs/scale.md: its commands run as they are written, with two ranges in place of sixteen, and give one store."""

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Cli

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.fixture
def run(cli: Cli, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a line: kdpipe in this process, other programs as they are."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def line(text: str) -> None:
        program, *arguments = shlex.split(text)
        if program == "kdpipe":
            outcome = cli(*arguments)
            assert outcome.code == 0, f"{text}\n{outcome.err}"
        else:
            done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{text}\n{done.stderr}"

    return line


def content(root: Path) -> dict[str, str]:
    """Every file's hash but the manifest's, which holds times."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_the_commands_of_the_page(run) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("submitit")
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if language == "toml":
            Path("extract.toml").write_text(block)
        elif language == "python":
            Path("ranges.py").write_text(block.replace("16", "2"))
            run("python ranges.py")
        elif language == "bash":
            *directives, command = block.replace("16", "2").splitlines()
            assert "#SBATCH --array=1-2" in directives
            for task in ("2", "1"):
                run(command.replace("$SLURM_ARRAY_TASK_ID", task))
        else:
            for line in block.replace("\\\n", " ").splitlines():
                run(line)
    expected = content(Path("digits.kd"))
    assert sum(name.startswith("receipts/") for name in expected) == 9
    for name in ("torchrun", "slurm", "submitit", "ray"):
        assert content(Path(f"{name}.kd")) == expected, name
    assert Path("runs/ltkd/summary.json").exists()
