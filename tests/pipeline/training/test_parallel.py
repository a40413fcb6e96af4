"""Training by several processes: the weights and the figures of one, and a run that goes on with another number."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from gathering import check_gathering
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.ranks import Ranks
from kdpipe.pipeline.training.parallel import check_batch_size
from kdpipe.stores import UsageError
from ranked import run_ranks
from safetensors.numpy import load_file

MODULE = '''
import os
import signal
from pathlib import Path

import torch
from torch import nn


class Network(nn.Module):
    """No BatchNorm. In a process of rank 1, the 50th batch is its last if there is a file `kill`, which it removes."""

    def __init__(self, hidden, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
        self.batches = 0

    def forward(self, x):
        self.batches += self.training
        if self.batches == 50 and os.environ.get("RANK") == "1" and Path("kill").exists():
            Path("kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(x)


def teacher(num_classes):
    torch.manual_seed(1)
    return Network(64, num_classes)


def student(num_classes):
    return Network(16, num_classes)
'''
# of these, ltkd and dist look at the batch as a whole; 898 samples are 28 batches of 31 and a rest, each 16 and 15
LOSSES = ("ltkd", "dist", "grkd,weight=0.1")


def config(out: str, **settings: object) -> DistillConfig:
    base = {
        "store": Path("d.kd"), "data": "digits,split=train", "val": "digits,split=test", "out": Path(out),
        "student": "python:two_networks:student", "loss": LOSSES, "epochs": 3, "batch_size": 31, "ema": 0.9,
        "optimiser": OptimiserConfig(lr=0.05, clip_grad=1.0),
    }  # fmt: skip
    return DistillConfig(**{**base, **settings})  # pyright: ignore[reportArgumentType]


def records(out: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "two_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "two_networks", raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    extract(ExtractConfig(data="digits,split=train", teacher="python:two_networks:teacher", out=Path("d.kd")))
    return tmp_path


def same(out: str, other: str) -> None:
    """Two runs with the same figures and weights, but for round-off."""
    one, two = records(out), records(other)
    assert len(one) == len(two) == 3
    for name in set(one[0]) - {"seconds", "images_per_second"}:
        tolerance = 2e-3 if name.startswith("val_") else 1e-4  # two of 899 predictions may be ties
        np.testing.assert_allclose([r[name] for r in one], [r[name] for r in two], rtol=tolerance, err_msg=name)
    weights, others = (load_file(Path(run, "student.safetensors")) for run in (out, other))
    for name, tensor in weights.items():
        np.testing.assert_allclose(tensor, others[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_several_processes_train_as_one(workplace: Path) -> None:
    """Two, of which one is killed in the second epoch; then three, which go on. Their shares are of unequal sizes."""
    distill(config("one"))
    Path("kill").touch()
    assert -signal.SIGKILL in run_ranks(2, distill, config("several"))
    assert not Path("kill").exists()
    assert [path.name for path in Path("several/checkpoints").glob("*")] == ["0000000028.pt"]
    assert run_ranks(3, distill, config("several")) == [0, 0, 0]
    same("one", "several")
    before = {path: path.stat().st_mtime_ns for path in Path("several").rglob("*")}
    assert run_ranks(2, distill, config("several")) == [0, 0]
    assert before == {path: path.stat().st_mtime_ns for path in Path("several").rglob("*")}, "finished is finished"


def test_one_of_two_killed_and_both_started_again(workplace: Path) -> None:
    """As many processes as before end with the bits of a run that nobody killed."""
    assert run_ranks(2, distill, config("whole", epochs=2)) == [0, 0]
    Path("kill").touch()
    assert -signal.SIGKILL in run_ranks(2, distill, config("killed", epochs=2))
    assert run_ranks(2, distill, config("killed", epochs=2)) == [0, 0]
    assert Path("killed/student.safetensors").read_bytes() == Path("whole/student.safetensors").read_bytes()
    whole, killed = records("whole"), records("killed")
    timed = {"seconds", "images_per_second"}
    assert [{k: v for k, v in r.items() if k not in timed} for r in killed] == [
        {k: v for k, v in r.items() if k not in timed} for r in whole
    ]


def test_a_student_with_batchnorm_trains_by_shares(workplace: Path) -> None:
    settings = {"student": "kdpipe:convnet_tiny", "epochs": 1, "ema": None}
    assert run_ranks(2, distill, config("two", **settings)) == [0, 0]
    distill(config("one", **settings))
    [one], [two] = records("one"), records("two")
    assert two["loss"] == pytest.approx(one["loss"], rel=0.05)


def test_shares_become_the_whole_batch_again() -> None:
    assert run_ranks(3, check_gathering) == [0, 0, 0]


def test_a_batch_that_is_too_small_to_split() -> None:
    check_batch_size(Ranks(rank=0, world_size=4), 4)
    with pytest.raises(UsageError, match=r"3 cannot be split over 4 .*larger --batch-size"):
        check_batch_size(Ranks(rank=0, world_size=4), 3)


def test_students_side_by_side_are_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdpipe.pipeline.distill import distill_cohort

    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="without torchrun"):
        distill_cohort([config("one"), config("two")])
