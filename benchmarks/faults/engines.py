"""Kills of the processes of torchrun and of a Ray cluster, each in the middle of a chunk or of a training."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


def die_if_asked():
    """Kill this process if there is a file in the folder KILLS, which is taken away."""
    for kill in Path(os.environ["KILLS"]).glob("*"):
        try:
            kill.unlink()
        except FileNotFoundError:
            continue  # another process takes this one
        os.kill(os.getpid(), signal.SIGKILL)


class Teacher(nn.Module):
    """Linear; dies at its third call."""

    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        global calls
        calls += 1
        if calls == 3:
            die_if_asked()
        return self.fc(x.flatten(1))


def teacher(num_classes):
    return Teacher(num_classes)


class Student(nn.Module):
    """Linear; dies at the tenth batch that it learns from."""

    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)
        self.batches = 0

    def forward(self, x):
        self.batches += self.training
        if self.batches == 10:
            die_if_asked()
        return self.fc(x.flatten(1))


def student(num_classes):
    return Student(num_classes)
'''


def all_kills(folder: Path, ray_kills: int) -> list[Row]:
    """A rank of torchrun, and process after process of a Ray cluster; all must end as one process makes it."""
    (folder / "mortal_teacher.py").write_text(_MODULE)
    kills = folder / "kills"
    kills.mkdir(exist_ok=True)
    os.environ |= {"KILLS": str(kills), "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    Child(command(*_arguments(folder / "engines.kd"))).wait()
    expected = content(folder / "engines.kd")
    return [
        _torchrun(folder, kills, expected),
        _ray(folder, kills, expected, ray_kills),
        _sweep(folder, kills, ray_kills),
    ]


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


def _sweep(folder: Path, kills: Path, times: int) -> Row:
    fault = "SIGKILL of a worker of a sweep on a Ray cluster in the middle of a cohort"
    whole, out = folder / "whole-sweep", folder / "ray-sweep"
    sweep = [
        *(sys.executable, "-m", "kdpipe", "sweep", "--data", "digits,split=train", "--val", "digits,split=test"),
        *("--student", "python:mortal_teacher:student", "--loss", "ce", "--loss", "logit-adjustment"),
        *("--set", "lr=0.05,0.02", "--seeds", "0,1", "--epochs", "20", "--checkpoint-seconds", "0", "--cohort", "2"),
    ]
    subprocess.run([*sweep, "--out", str(whole)], check=True, capture_output=True, cwd=folder)
    for number in range(times):
        (kills / str(number)).touch()
    run = [*sweep, "--out", str(out), "--engine", "ray", "--cpus", "1"]
    done = subprocess.run(run, check=False, capture_output=True, text=True, cwd=folder)
    if "needs the extra 'ray'" in done.stderr:
        for kill in kills.iterdir():
            kill.unlink()
        return Row(fault, 0, "not injected: Ray is not installed", held=True)
    left = len(list(kills.iterdir()))
    same = done.returncode == 0 and _table(out) == _table(whole) and _students(out) == _students(whole)
    outcome = (
        f"in one run, exit code {done.returncode}; table and weights {'identical' if same else 'DIFFERENT'} to those "
        "of one process that nobody killed"
    )
    return Row(fault, times - left, outcome, same and not left)


def _table(sweep: Path) -> pa.Table:
    return pq.read_table(sweep / "trials.parquet").drop_columns(["seconds"])


def _students(sweep: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sweep.rglob("student.safetensors")}
