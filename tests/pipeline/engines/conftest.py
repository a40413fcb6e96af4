"""A small extraction, the store that one process makes of it, and a teacher that can kill its process."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from kdpipe.pipeline import ExtractConfig, extract

# mid-chunk: of a chunk of 100 rows in batches of 32, the third; the first call only tries the teacher
TEACHER = '''
import os
import signal
from pathlib import Path

import torch
from torch import nn

calls = 0


class Teacher(nn.Module):
    """Linear; at its fourth call it kills its process if there is a file kills/*, which it takes away."""

    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        global calls
        calls += 1
        if calls == 4:
            for kill in Path("kills").glob("*"):
                kill.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.fc(x.flatten(1))


def teacher(num_classes):
    return Teacher(num_classes)
'''

Content = dict[str, str]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the teacher's module; torchrun and Slurm have not started this process."""
    (tmp_path / "mortal_teacher.py").write_text(TEACHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mortal_teacher", raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def config() -> Callable[..., ExtractConfig]:
    """Nine chunks of 100 rows, the last of 98."""

    def make(out: str, **settings: object) -> ExtractConfig:
        base = {
            "data": "digits,split=train", "teacher": "python:mortal_teacher:teacher", "out": Path(out),
            "chunk_rows": 100, "batch_size": 32,
        }  # fmt: skip
        return ExtractConfig(**{**base, **settings})  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def content() -> Callable[[str], Content]:
    """Every file's hash but the manifest's, which holds times."""

    def read(out: str) -> Content:
        root = Path(out)
        return {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != "manifest.json"
        }

    return read


@pytest.fixture
def whole(config: Callable[..., ExtractConfig], content: Callable[[str], Content]) -> Content:
    """The content of the store that one process makes at one go."""
    extract(config("whole.kd"))
    return content("whole.kd")
