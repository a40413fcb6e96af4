"""docs/plan.md tells the truth: its commands run, and leave nothing behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model

PAGE = Path(__file__).parents[3] / "docs" / "plan.md"


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Photographs in class folders, and a teacher's weights."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog", "eel"):
        folder = tmp_path / "photos" / "train" / label
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(generator.integers(0, 256, (64, 80, 3), np.uint8)).save(folder / f"{number}.jpg")
    torch.manual_seed(0)
    torch.save(get_model("resnet18", num_classes=3).state_dict(), tmp_path / "teacher.pt")
    return tmp_path


def test_the_commands_run(workplace: Path) -> None:
    before = sorted(workplace.rglob("*"))
    command = f"{sys.executable} -m kdpipe"
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        script = re.sub(r"^kdpipe", command, block, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], check=False, cwd=workplace, env=os.environ,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    plan = json.loads((workplace / "plan.json").read_text())
    assert [(cost["codec"], cost["views"]) for cost in plan["costs"]] == [
        (codec, views) for codec in ("float16", "int8+zstd", "topk:2,temperatures=1,4") for views in (1, 8, 30)
    ]
    assert plan["student"]["student"] == "torchvision:mobilenet_v3_small"
    assert sorted(workplace.rglob("*")) == sorted([*before, workplace / "plan.json"])
