"""The examples of the README and docs run as they are."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    data, optimiser = "digits,split=train", OptimiserConfig(lr=0.05)
    distill(DistillConfig(student="kdpipe:convnet_tiny", data=data, out=root / "t", epochs=2, optimiser=optimiser))
    weights = f"kdpipe:convnet_tiny,weights={root / 't' / 'student.safetensors'}"
    extract(ExtractConfig(data=data, teacher=weights, out=root / "digits.kd", chunk_rows=300))
    return root / "digits.kd"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, ROOT / "examples" / script, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("script", "packages"),
    [
        ("plain_torch.py", []),
        ("timm_loop.py", ["timm"]),
        ("lightning_loop.py", ["lightning"]),
        ("hf_trainer.py", ["transformers", "accelerate"]),
    ],
)
def test_a_store_in_a_training_loop(store: Path, script: str, packages: list[str]) -> None:
    for package in packages:
        pytest.importorskip(package)
    lines = [line for line in run(script, store).splitlines() if line.startswith("epoch ")]
    losses = [float(line.split()[-1]) for line in lines]
    assert len(losses) == 5
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("script", ["timm_loop.py", "lightning_loop.py", "hf_trainer.py"])
def test_a_loop_of_others_takes_under_30_lines(script: str) -> None:
    """Lines of code: imports, docstrings, comments and empty lines aside."""
    source = (ROOT / "examples" / script).read_text()
    aside = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            aside |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    code = [line for number, line in enumerate(source.splitlines(), 1) if number not in aside]
    assert sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in code) < 30


def test_plain_zarr_imports_no_kdpipe(store: Path) -> None:
    assert "kdpipe" not in "".join(
        line
        for line in (ROOT / "examples" / "plain_zarr.py").read_text().splitlines()
        if "import" in line and '"""' not in line
    )
    *_, last = run("plain_zarr.py", store).splitlines()
    stored, recorded = last.removeprefix("top-1 accuracy of the stored logits: ").split("; the manifest says ")
    assert float(stored) == pytest.approx(float(recorded), abs=0.005)


def test_text_from_end_to_end(tmp_path: Path) -> None:
    """The commands of docs/specs.md: the student is far above chance (6 %) in texts that nobody has seen."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "specs.md").read_text()
    (script,) = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    script = script.replace("kdpipe ", f"{sys.executable} -m kdpipe ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (overall,) = re.findall(r"validation +overall ([\d.]+) %", done.stdout)
    assert float(overall) > 75
    assert "Whole: 0 error(s), 0 warning(s)" in done.stdout
