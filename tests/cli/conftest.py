import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kdpipe.cli.main import main

TEACHERS = '''
import torch
from torch import nn

class Teacher(nn.Module):
    """Logits that are a fixed random linear map of the pixels; `kind` spoils them."""

    def __init__(self, num_classes, kind):
        super().__init__()
        torch.manual_seed(1)
        self.kind = kind
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        z = self.fc(x.flatten(1))
        dark = x.flatten(1).sum(1) > 20
        if self.kind == "nan":
            z = torch.where(dark[:, None], torch.nan, z)
        if self.kind == "big":
            z = z * 1e7
        if self.kind == "softmax":
            z = z.softmax(1)
        if self.kind == "equal":
            z = torch.where(dark[:, None], 1.0, z)
        return z[:, :, None] if self.kind == "shape" else z

def teacher(num_classes, kind="good"):
    return Teacher(num_classes, kind)

def twelve():
    return Teacher(12, "good")
'''


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of teachers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_teachers.py").write_text(TEACHERS)
    monkeypatch.delitem(__import__("sys").modules, "my_teachers", raising=False)
    return tmp_path


@pytest.fixture
def cli(workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Run `kdpipe ...` in this process; gives exit code, stdout and stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["kdpipe", *(str(argument) for argument in arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Outcome(int(exit_.value.code or 0), out, err)

    yield run
    signal.signal(signal.SIGTERM, before)
