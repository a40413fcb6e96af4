"""docs/import.md tells the truth: what it shows runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.stores import open_store

PAGE = (Path(__file__).parents[3] / "docs" / "import.md").read_text()
N, C, K = 12, 6, 3
KEYS = [f"n{number % 2}/{number}.JPEG" for number in range(N)]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(N, C)).astype(np.float32), np.arange(N) % C
    np.save(tmp_path / "logits.npy", logits)
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "teacher.npz", teacher=logits, other=logits, key=np.array(KEYS), label=labels)
    for name, lines in (("ids", KEYS), ("keys", KEYS), ("images", KEYS), ("labels", labels), ("classes", "abcdef")):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, lines)))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = np.argsort(-chances, 1)[:, :K]
    best = np.take_along_axis(chances, classes, 1)
    for epoch in range(2):
        folder = tmp_path / "saved_logits" / f"logits_top{K}_epoch{epoch}"
        folder.mkdir(parents=True)
        (folder / "rank0-keys.txt").write_text("".join(f"{key}\n" for key in KEYS))
        rows = (np.int32(7).tobytes() + c.tobytes() + p.tobytes()
                for c, p in zip(classes.astype(np.int16), best.astype(np.float16), strict=True))  # fmt: skip
        (folder / "rank0-values.bin").write_bytes(b"".join(rows))
    for row, key in enumerate(KEYS):
        path = (tmp_path / "soft_labels" / key).with_suffix(".tar")
        path.parent.mkdir(parents=True, exist_ok=True)
        labels_of_crops = np.stack([np.stack([classes[row], best[row]])] * 4).astype(np.float32)
        torch.save([np.full((4, 4), 0.5, np.float32), np.zeros(4, bool), labels_of_crops], path)
    return tmp_path


def test_the_page_runs(workplace: Path) -> None:
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        script = re.sub(r"^kdpipe", f"{sys.executable} -m kdpipe", block, flags=re.MULTILINE)
        command = ["bash", "-euo", "pipefail", "-c", script] if language == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(command, check=False, cwd=workplace, env=os.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert language == "sh" or "(2, 3)" in done.stdout
    views = {
        name: open_store(workplace / f"{name}.kd").manifest.num_views for name in ("old", "small", "tinyvit", "fkd")
    }
    assert views == {"old": 1, "small": 1, "tinyvit": 2, "fkd": 4}
