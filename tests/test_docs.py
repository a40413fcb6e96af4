"""The README and the docs tell the truth: their commands run, their links lead somewhere, their schema is the code's."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.stores.manifest import manifest_schema
from PIL import Image
from torchvision.models import get_model

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's reader has: photographs in class folders, and a teacher's weights."""
    root = tmp_path_factory.mktemp("reader")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label in ("cat", "dog", "eel"):
            folder = root / "photos" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (80, 100, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    torch.manual_seed(0)
    torch.save(get_model("resnet50", num_classes=3).state_dict(), root / "teacher.pt")
    return root


def test_the_commands_of_the_readme_run(workplace: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(ROOT / "README.md", "sh"):
        if block.startswith("make "):
            assert {line.split()[1] for line in block.splitlines()} <= targets
            continue
        script = block.replace("--out runs/ltkd", "--epochs 2 --out runs/ltkd")  # 30 epochs say no more than 2
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], check=False, cwd=workplace, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for block in blocks(ROOT / "README.md", "python"):
        done = subprocess.run([sys.executable, "-c", block], check=False, cwd=workplace, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "torchvision:resnet50" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parts_that_scripts_write_have_a_script_and_an_end(page: Path) -> None:
    text = page.read_text()
    scripts = re.findall(
        r"^<!-- written by (\S+\.py)[^\n]* -->\n\n.*?^<!-- until here -->$", text, re.MULTILINE | re.DOTALL
    )
    assert len(scripts) == text.count("<!-- written by ") == text.count("<!-- until here -->")
    for script in scripts:
        assert "pages.write_part(" in (ROOT / script).read_text()


def test_the_published_schema_is_the_code_s() -> None:
    published = json.loads((ROOT / "docs" / "manifest.schema.json").read_text())
    assert published == json.loads(json.dumps(manifest_schema()))
