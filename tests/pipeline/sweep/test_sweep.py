"""A sweep as a whole: each trial is the run it would be alone, whatever is killed, fails or is trained beside it."""

import gc
import multiprocessing
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.model_card import ModelCard
from kdpipe.pipeline.sweep import SweepConfig, sweep
from kdpipe.pipeline.sweep.cohorts import student_bytes
from kdpipe.stores.errors import KdpipeError, MismatchError, RefusedError
from kdpipe.stores.manifest import Manifest, replace

DATA, TEST = "digits,split=train,imbalance=20", "digits,split=test"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    distill(DistillConfig(student="kdpipe:convnet_tiny", data=DATA, out=root / "t", epochs=1))
    weights = f"kdpipe:convnet_tiny,weights={root / 't' / 'student.safetensors'}"
    extract(ExtractConfig(data=DATA, teacher=weights, out=root / "d.kd", chunk_rows=64))
    return root / "d.kd"


def base(store: Path, out: Path, **settings: Any) -> DistillConfig:
    common: dict[str, Any] = {"store": store, "student": "kdpipe:convnet_tiny", "val": TEST, "epochs": 1,
                              "batch_size": 64, "optimiser": OptimiserConfig(lr=0.05)}  # fmt: skip
    return DistillConfig(**{**common, **settings}, out=out)


def table(out: Path) -> list[dict[str, Any]]:
    """The table without what takes time."""
    rows = pq.read_table(out / "trials.parquet").drop_columns(["seconds"]).to_pylist()
    return [{**row, "error": row["error"] and row["error"].replace(str(out), "OUT")} for row in rows]


def weights(run: Path) -> bytes:
    return (run / "student.safetensors").read_bytes()


def states(out: Path) -> list[str]:
    return [row["state"] for row in table(out)]


def test_every_trial_is_the_run_it_would_be_alone(store: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "s", []
    config = SweepConfig(base=base(store, out), losses=("ce", "kd + grkd,weight=0.1"), seeds=(0, 1),
                         settings={"lr": ("0.1", "0.02")})  # fmt: skip
    result = sweep(config, told.append)
    rows = table(out)
    assert [row["id"] for row in rows] == [f"{i:04d}" for i in range(8)]
    assert sorted(row.id for row in told) == [row["id"] for row in rows]
    for row in (rows[0], rows[7]):
        alone = base(
            store, tmp_path / row["id"], loss=tuple(row["loss"].split(" + ")), seed=row["seed"],
            optimiser=OptimiserConfig(lr=float(row["lr"])),
        )  # fmt: skip
        summary = distill(alone).summary
        assert summary["val"] == {name: row[name] for name in summary["val"]}
        assert (summary["train_loss"], summary["num_parameters"]) == (row["train_loss"], row["parameters"])
        assert weights(out / row["path"]) == weights(alone.out)
    best = result.leaderboard[0]
    assert best.mean["balanced"] == max(standing.mean["balanced"] or 0 for standing in result.leaderboard)
    assert result.best is not None
    assert result.best.read_bytes() == weights(out / "runs" / best.best)
    card = ModelCard.of_weights(str(result.best))
    assert card is not None
    assert card.store_id == rows[0]["store_id"]


def test_a_sweep_that_never_began_may_be_asked_for_otherwise(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    with pytest.raises(KdpipeError, match="tset"):
        sweep(SweepConfig(base=base(store, out, val="digits,split=tset"), settings={"lr": ("0.1",)}))
    assert states(out) == ["waiting"]
    sweep(SweepConfig(base=base(store, out), losses=("ce", "kd")))
    assert states(out) == ["done", "done"]


def test_a_finished_sweep_is_left_alone_and_another_one_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    config = SweepConfig(base=base(store, out), losses=("ce", "kd"))
    sweep(config)
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    assert sweep(config).leaderboard[0].seeds == 1
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before
    with pytest.raises(MismatchError, match=r"another configuration: loss is .* there, .*grkd.* here\. Choose"):
        sweep(SweepConfig(base=base(store, out), losses=("ce", "grkd")))
    with pytest.raises(RefusedError, match=r"is no sweep: its config\.json is that of a run"):
        sweep(SweepConfig(base=base(store, out / "runs" / "0000"), losses=("ce", "kd")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RefusedError, match="is not a kdpipe sweep"):
        sweep(SweepConfig(base=base(store, tmp_path / "other")))


def test_killed_and_resumed_a_sweep_gives_the_same_table(store: Path, tmp_path: Path) -> None:
    def config(out: Path) -> SweepConfig:
        return SweepConfig(
            base=base(store, out, epochs=4, checkpoint_seconds=0.0), losses=("kd", "grkd"), seeds=(0, 1),
            settings={"lr": ("0.05", "1e30")}, prune="halving", cohort=2,
        )  # fmt: skip

    whole, killed, chance = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    sweep(config(whole))
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["kdpipe.pipeline.sweep", "sklearn.datasets"])
    ends = []
    for _ in range(3):
        process = forks.Process(target=sweep, args=(config(killed),))
        process.start()
        deadline, seen = time.monotonic() + 60, set(killed.rglob("*.pt"))
        while time.monotonic() < deadline and process.is_alive() and not set(killed.rglob("*.pt")) - seen:
            time.sleep(0.002)
        time.sleep(0.2 * chance.random())
        process.kill()
        process.join()
        ends.append(process.exitcode)
    assert -signal.SIGKILL in ends
    sweep(config(killed))
    assert table(killed) == table(whole)
    assert Counter(states(killed)) == {"diverged": 4, "done": 2, "pruned": 2}
    ended = [row["path"] for row in table(whole) if row["state"] == "done"]
    assert all(weights(killed / path) == weights(whole / path) for path in ended)


def test_a_search_goes_on_with_the_same_suggestions(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")

    def config(out: Path) -> SweepConfig:
        return SweepConfig(
            base=base(store, out, epochs=2), losses=("ce", "kd"), search="tpe", trials=6, prune="halving",
            settings={"lr": ("0.1", "0.05", "0.02"), "momentum": ("0", "0.9")},
        )  # fmt: skip

    class StopError(Exception): ...

    def stop(row: object) -> None:
        if len(list((tmp_path / "killed").rglob("summary.json"))) >= 2:
            raise StopError

    sweep(config(tmp_path / "whole"))
    with pytest.raises(StopError):
        sweep(config(tmp_path / "killed"), stop)
    sweep(config(tmp_path / "killed"))
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert Counter(states(tmp_path / "whole")) == {"done": 3, "pruned": 3}


FAILING = """
from torch import nn

def student(num_classes):
    raise ValueError("no such day")

def inner(num_classes):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, num_classes)
        def forward(self, x):
            if self.training:
                raise IndexError("too far")
            return self.fc(x.flatten(1))
    return Inner()
"""


def test_a_trial_that_fails_is_reported_and_the_others_go_on(
    store: Path, tmp_path: Path, module: Callable[[str, str], None]
) -> None:
    module("failing_students", FAILING)
    out = tmp_path / "s"
    students = ("python:failing_students:student", "kdpipe:convnet_tiny", "python:failing_students:inner")
    result = sweep(SweepConfig(base=base(store, out), students=students, losses=("kd",)))
    assert states(out) == ["failed", "done", "failed"]
    assert "no such day" in (result.rows[0].error or "")
    assert "too far" in (result.rows[2].error or "")
    again = sweep(SweepConfig(base=base(store, out), students=students, losses=("kd",)))
    assert again.rows == result.rows
    assert [standing.student for standing in again.leaderboard] == ["kdpipe:convnet_tiny"]


GREEDY = """
import weakref
import torch
from torch import nn

alive = weakref.WeakSet()

class Greedy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)
        alive.add(self)

    def forward(self, x):
        if len(alive) > 1:
            raise torch.OutOfMemoryError("no room for two")
        return self.fc(x.flatten(1))

def student(num_classes):
    return Greedy(num_classes)
"""


def test_students_who_need_all_the_memory_are_trained_again_alone(
    store: Path, tmp_path: Path, module: Callable[[str, str], None]
) -> None:
    module("greedy_students", GREEDY)
    config = SweepConfig(base=base(store, tmp_path / "s"), students=("python:greedy_students:student",),
                         losses=("kd", "ce"))  # fmt: skip
    student_bytes.cache_clear()
    gc.collect()
    sweep(config)
    assert states(tmp_path / "s") == ["done", "done"]


def test_data_that_only_some_trials_ask_for_fail_those(store: Path, tmp_path: Path) -> None:
    settings = {"data": (DATA, "digits,split=test"), "batch_size": ("64", "32")}
    sweep(SweepConfig(base=base(store, tmp_path / "s"), losses=("kd",), settings=settings))
    rows = table(tmp_path / "s")
    assert [row["state"] for row in rows] == ["done", "done", "failed", "failed"]
    assert "No sample of the data set" in rows[2]["error"]


def vanish(copy: Path) -> None:
    copy.rename(copy.with_name("gone.kd"))


def reopen(copy: Path) -> None:
    """Make the store one that somebody adds to."""
    replace(Manifest.read(copy), state="writing").write(copy)


@pytest.mark.parametrize(("lose", "message"), [(vanish, "Is this a kdpipe store"), (reopen, "not finished")])
@pytest.mark.parametrize("settings", [{"lr": ("0.1", "0.05")}, {"batch_size": ("64", "32")}])
def test_a_store_that_vanishes_stops_the_sweep_and_marks_nothing(
    store: Path, tmp_path: Path, lose: Callable[[Path], None], message: str, settings: dict[str, tuple[str, ...]]
) -> None:
    copy, out = tmp_path / "d.kd", tmp_path / "s"
    shutil.copytree(store, copy)
    config = SweepConfig(base=base(copy, out), losses=("kd",), settings=settings, cohort=1)
    with pytest.raises(RefusedError, match=message):
        sweep(config, lambda _: lose(copy))
    assert states(out) == ["done", "waiting"]
    shutil.copytree(store, copy, dirs_exist_ok=True)
    sweep(config)
    assert states(out) == ["done"] * 2


def test_what_is_missing_or_damaged_is_made_again_or_named(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    config = SweepConfig(base=base(store, out), losses=("ce", "kd"))
    sweep(config)
    whole = table(out)
    shutil.rmtree(out / "runs" / "0001")
    sweep(config)
    assert table(out) == whole
    (out / "trials.parquet").write_bytes(b"no table")
    with pytest.raises(KdpipeError, match="Remove it and run the sweep again"):
        sweep(config)
    (out / "trials.parquet").unlink()
    sweep(config)
    assert table(out) == whole
