"""A sweep on Ray: the table and the students of this process, whatever is killed, fails or diverges on the way."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from kdpipe.pipeline import DistillConfig, OptimiserConfig
from kdpipe.pipeline.sweep import SweepConfig, sweep
from kdpipe.stores.errors import KdpipeError, MissingExtraError, UsageError
from ray_here import ray_here

DATA = "digits,split=train,imbalance=20"
STUDENTS = '''
import os
import signal
from pathlib import Path

from torch import nn


class Mortal(nn.Module):
    """In a worker of Ray, its 10th batch is the last of its process if there is a file kills/*, which it takes away."""

    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)
        self.batches = 0

    def forward(self, x):
        self.batches += self.training
        if self.batches == 10:
            for kill in Path("kills").glob("*"):
                kill.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.fc(x.flatten(1))


def mortal(num_classes):
    return Mortal(num_classes)


def failing(num_classes):
    raise ValueError("no such day")
'''
MORTAL = "python:ray_students:mortal"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the students' module, and a cluster of two cores that finds it."""
    root = tmp_path_factory.mktemp("ray")
    (root / "ray_students.py").write_text(STUDENTS)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, ray_here(root):
        patch.chdir(root)
        patch.syspath_prepend(root)
        patch.delitem(sys.modules, "ray_students", raising=False)
        torch.set_num_threads(1)  # as many as a cohort has there, for the same bits
        yield root
    torch.set_num_threads(threads)


def base(out: str, **settings: Any) -> DistillConfig:
    common: dict[str, Any] = {"student": MORTAL, "data": DATA, "val": "digits,split=test", "epochs": 4,
                              "batch_size": 32, "checkpoint_seconds": 0.0,
                              "optimiser": OptimiserConfig(lr=0.05)}  # fmt: skip
    return DistillConfig(**{**common, **settings}, out=Path(out))


def table(out: str) -> list[dict[str, Any]]:
    """The table without what takes time."""
    return pq.read_table(Path(out) / "trials.parquet").drop_columns(["seconds"]).to_pylist()


def same(out: str, other: str) -> Counter[str]:
    """Compare two sweeps; gives the states of their trials."""
    assert table(out) == table(other)
    done = [row["path"] for row in table(other) if row["state"] == "done"]
    assert done
    for path in done:
        one, two = (Path(root, path, "student.safetensors").read_bytes() for root in (out, other))
        assert one == two, path
    assert sorted(path.name for path in Path(out).iterdir()) == sorted(path.name for path in Path(other).iterdir())
    return Counter(row["state"] for row in table(other))


def test_the_table_is_that_of_this_process(place: Path) -> None:
    """One setting diverges, one student cannot be built, and the worse half is stopped."""

    def config(out: str, **settings: Any) -> SweepConfig:
        students = ("kdpipe:convnet_tiny", MORTAL, "python:ray_students:failing")
        return SweepConfig(base=base(out, epochs=2), students=students, losses=("ce",), prune="halving",
                           settings={"lr": ("0.05", "1e30")}, **settings)  # fmt: skip

    told = []
    local = sweep(config("local"))
    result = sweep(config("spread", engine="ray", cpus=1, cohort=6), told.append)  # a process starts slowly
    assert same("spread", "local") == {"failed": 2, "diverged": 2, "pruned": 1, "done": 1}
    assert sorted(row.id for row in told) == [row["id"] for row in table("local")]
    ranked = [(standing.best, standing.mean) for standing in local.leaderboard]
    assert [(standing.best, standing.mean) for standing in result.leaderboard] == ranked
    assert sweep(config("spread")).leaderboard == result.leaderboard, "where it is trained is not part of what it is"


def test_a_worker_killed_in_the_middle_of_a_cohort(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is replaced, and goes on from the checkpoints; a student that kills every worker fails alone."""
    from kdpipe.pipeline.sweep import ray_tune

    def config(out: str, **settings: Any) -> SweepConfig:
        return SweepConfig(base=base(out), losses=("ce", "logit-adjustment"), settings={"lr": ("0.05", "0.02")},
                           cohort=2, **settings)  # fmt: skip

    kills = Path("kills")
    kills.mkdir()
    sweep(config("whole"))
    (kills / "1").touch()
    sweep(config("killed", engine="ray", cpus=1))
    assert list(kills.iterdir()) == [], "it was killed"
    assert "the process of a cohort was lost and is replaced" in caplog.text
    assert same("killed", "whole") == {"done": 4}

    monkeypatch.setattr(ray_tune, "_ATTEMPTS", 1)
    for number in range(2):  # of the cohort, and then of one of its two students alone
        (kills / str(number)).touch()
    sweep(SweepConfig(base=base("failing"), losses=("ce", "logit-adjustment"), engine="ray", cpus=2))
    assert list(kills.iterdir()) == []
    ends = sorted((row["state"], row["error"]) for row in table("failing"))
    assert [state for state, _ in ends] == ["done", "failed"]
    assert "1 processes were lost over it" in ends[1][1]


def test_what_concerns_all_trials_ends_the_sweep_and_marks_nothing(place: Path) -> None:
    config = SweepConfig(base=base("none", data="folder:gone"), losses=("ce",), seeds=(0, 1), engine="ray", cpus=1)
    with pytest.raises(KdpipeError, match="gone"):
        sweep(config)
    assert [row["state"] for row in table("none")] == ["waiting"] * 2


@pytest.mark.parametrize(("num_trials", "size"), [(1, 1), (2, 1), (7, 4), (32, 16), (100, 16)])
def test_cohorts_keep_all_of_the_cluster_busy(place: Path, num_trials: int, size: int) -> None:
    from kdpipe.pipeline.sweep.ray_tune import RayTune

    assert RayTune(SweepConfig(base=base("s"), engine="ray", cpus=1)).cohort_size(num_trials) == size
    assert RayTune(SweepConfig(base=base("s"), engine="ray", cpus=1, cohort=3)).cohort_size(num_trials) == 3


def test_a_place_is_a_gpu_and_its_share_of_the_cores() -> None:
    pytest.importorskip("ray")
    from kdpipe.pipeline.sweep.ray_tune import default_cpus, places

    head, node = {"CPU": 64.0}, {"CPU": 17.0, "GPU": 4.0}
    assert default_cpus([head, node, {"CPU": 10.0, "GPU": 2.0}], gpus=1) == 4
    assert places(head, cpus=4, gpus=1) == 0
    assert (places(node, cpus=4, gpus=1), places(node, cpus=8, gpus=1), places(node, cpus=8, gpus=0)) == (4, 2, 2)
    assert default_cpus([{}, {"CPU": 1.0}], gpus=0) == 1


def test_through_ray_client_it_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, Ray Tune would run on the cluster, and the table would be written there."""
    from ray.util import client

    monkeypatch.setattr(client.ray, "is_connected", lambda: True)
    with pytest.raises(UsageError, match="on a node of the cluster"):
        sweep(SweepConfig(base=base("client"), losses=("ce",), engine="ray"))
    assert not Path("client").exists()


DRIVER = """
from pathlib import Path
from kdpipe.pipeline import DistillConfig
from kdpipe.pipeline.sweep import SweepConfig, sweep

base = DistillConfig(student="kdpipe:convnet_tiny", data="digits,split=train", val="digits,split=test", batch_size=16,
                     checkpoint_seconds=0.0, epochs=3, out=Path("interrupted"))
sweep(SweepConfig(base=base, losses=("ce", "logit-adjustment"), engine="ray", cpus=1, cohort=2))
"""


def test_a_driver_that_is_killed_goes_on(place: Path) -> None:
    """Its workers end with it, and let go of their runs."""
    import ray

    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(Path("interrupted").rglob("*.pt")) and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert "waiting" in {row["state"] for row in table("interrupted")}

    def config(out: str, **settings: Any) -> SweepConfig:
        settings_of = {"student": "kdpipe:convnet_tiny", "data": "digits,split=train", "batch_size": 16, "epochs": 3,
                       "optimiser": OptimiserConfig()}  # fmt: skip
        return SweepConfig(base=base(out, **settings_of), losses=("ce", "logit-adjustment"), **settings)

    sweep(config("interrupted", engine="ray", cpus=1, cohort=2))
    sweep(config("uninterrupted"))
    assert same("interrupted", "uninterrupted") == {"done": 2}


def test_what_does_not_go_with_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="Give --engine ray"):
        SweepConfig(base=base("s"), cpus=2)
    with pytest.raises(UsageError, match="Did you mean 'ray'"):
        SweepConfig(base=base("s"), engine="rays")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="at least 1"):
        SweepConfig(base=base("s"), engine="ray", cpus=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"kdpipe\[ray\]"):
        sweep(SweepConfig(base=base("s", student="kdpipe:convnet_tiny"), losses=("ce",), engine="ray"))
    assert not Path("s").exists()
