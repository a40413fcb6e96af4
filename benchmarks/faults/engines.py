"""Kills of the processes of torchrun and of a Ray cluster, each in the middle of a chunk."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from children import Child, Row, command
from extraction import content

# a chunk of 64 rows is two batches of 32; the first call of a process only tries the teacher
_MODULE = '''
import os
import signal
from pathlib import Path

import torch
from torch import nn

calls = 0


class Teacher(nn.Module):
    """Linear; at its third call it kills its process if there is a file in the folder KILLS, which it takes away."""

    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        global calls
        calls += 1
        if calls == 3:
            for kill in Path(os.environ["KILLS"]).glob("*"):
                try:
                    kill.unlink()
                except FileNotFoundError:
                    continue  # another process takes this one
                os.kill(os.getpid(), signal.SIGKILL)
        return self.fc(x.flatten(1))


def teacher(num_classes):
    return Teacher(num_classes)
'''


def all_kills(folder: Path, ray_kills: int) -> list[Row]:
    """A rank of torchrun, and actor after actor of a Ray cluster; every store must end as one process makes it."""
    (folder / "mortal_teacher.py").write_text(_MODULE)
    kills = folder / "kills"
    kills.mkdir(exist_ok=True)
    os.environ |= {"KILLS": str(kills), "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    Child(command(*_arguments(folder / "engines.kd"))).wait()
    expected = content(folder / "engines.kd")
    return [_torchrun(folder, kills, expected), _ray(folder, kills, expected, ray_kills)]


def _arguments(out: Path) -> list[str]:
    settings = {"data": "digits,split=train", "teacher": "python:mortal_teacher:teacher", "out": out, "chunk-rows": 64}
    return ["extract", "--batch-size", "32", *(str(part) for n, v in settings.items() for part in (f"--{n}", v))]


def _torchrun(folder: Path, kills: Path, expected: dict[str, str]) -> Row:
    out = folder / "torchrun.kd"
    torchrun = [str(Path(sysconfig.get_path("scripts")) / "torchrun"), "--nproc-per-node=2", "-m", "kdpipe"]
    (kills / "1").touch()
    codes = [
        subprocess.run([*torchrun, *_arguments(out)], check=False, capture_output=True, cwd=folder).returncode
        for _ in range(2)
    ]
    same = content(out) == expected
    outcome = (
        f"exit codes {codes[0]}, and {codes[1]} when run again; {'identical' if same else 'DIFFERENT'} to one process's"
    )
    held = same and codes[0] != 0 and codes[1] == 0 and not list(kills.iterdir())
    return Row("SIGKILL of one of torchrun's two ranks in the middle of a chunk", 1, outcome, held)


def _ray(folder: Path, kills: Path, expected: dict[str, str], times: int) -> Row:
    fault = "SIGKILL of an actor of a Ray cluster in the middle of a chunk"
    out = folder / "ray.kd"
    for number in range(times):
        (kills / str(number)).touch()
    run = [sys.executable, "-m", "kdpipe", *_arguments(out), "--engine", "ray", "--actors", "1..2"]
    done = subprocess.run(run, check=False, capture_output=True, text=True, cwd=folder)
    if "needs the extra 'ray'" in done.stderr:
        return Row(fault, 0, "not injected: Ray is not installed", held=True)
    left = len(list(kills.iterdir()))
    same = done.returncode == 0 and content(out) == expected
    outcome = f"in one run, exit code {done.returncode}; {'identical' if same else 'DIFFERENT'} to one process's"
    return Row(fault, times - left, outcome, same and not left)
