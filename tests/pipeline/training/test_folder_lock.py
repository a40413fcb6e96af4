"""One process in a folder: another is refused by name, death lets go, and nothing stays behind."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kdpipe.pipeline import DistillConfig, distill
from kdpipe.pipeline.sweep import SweepConfig, sweep
from kdpipe.pipeline.training import folder_lock
from kdpipe.pipeline.training.folder_lock import LOCK, FolderLock
from kdpipe.stores.errors import BusyError


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_PATIENCE_HERE", 0.0)
    monkeypatch.setattr(folder_lock, "_PATIENCE_ELSEWHERE", 0.0)


@contextmanager
def child(action: Callable[[], object]) -> Iterator[int]:
    """A forked process that does something and then waits to be killed; gives its number."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os.write(writing, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"x", "the child failed"
        yield pid
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def config(out: Path) -> DistillConfig:
    return DistillConfig(student="kdpipe:convnet_tiny", data="digits,split=train", val="digits,split=test", out=out,
                         epochs=1)  # fmt: skip


def test_another_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with child(lambda: FolderLock.take(run, "run")) as pid, pytest.raises(BusyError, match="Wait for it") as raised:
        FolderLock.take(run, "run")
    assert f"The run {run} is being made by " in str(raised.value)
    assert f"(process {pid}, since " in str(raised.value)
    with FolderLock.take(run, "run"):
        assert (run / LOCK).exists()
    assert list(run.iterdir()) == []


def test_processes_that_the_owner_forked_do_not_keep_it(tmp_path: Path) -> None:
    """Reading processes live on for some seconds when their parent is killed."""
    orphan = tmp_path / "orphan"

    def lock_and_fork() -> None:
        FolderLock.take(tmp_path / "run", "run")
        if (pid := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        orphan.write_text(str(pid))

    with child(lock_and_fork):
        pass
    try:
        FolderLock.take(tmp_path / "run", "run").release()
    finally:
        os.kill(int(orphan.read_text()), signal.SIGKILL)


def test_it_is_waited_for_the_end_of_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder_lock, "_PATIENCE_HERE", 30.0)

    def lock_for_a_moment() -> None:
        FolderLock.take(tmp_path, "run")
        signal.alarm(1)

    with child(lock_for_a_moment) as pid:
        FolderLock.take(tmp_path, "run").release()
    [record] = caplog.records
    assert f"process {pid}" in record.getMessage()


def test_of_many_at_once_each_has_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file comes and goes; a file that a process counts in shows whether two ever were in there together."""
    monkeypatch.setattr(folder_lock, "_PATIENCE_HERE", 60.0)
    monkeypatch.setattr(folder_lock, "_PATIENCE_ELSEWHERE", 60.0)
    monkeypatch.setattr(folder_lock, "_LOOK_SECONDS", 0.0)
    counter = tmp_path / "counter"
    counter.write_text("0")
    pids = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                for _ in range(25):
                    with FolderLock.take(tmp_path / "run", "run"):
                        count = int(counter.read_text())
                        time.sleep(0.001)
                        counter.write_text(str(count + 1))
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert counter.read_text() == "100"


def test_without_locks_of_the_file_system_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    FolderLock.take(tmp_path, "run").release()


def test_two_trainings_or_sweeps_in_one_folder(tmp_path: Path) -> None:
    run, tried = tmp_path / "run", tmp_path / "sweep"

    def begin() -> None:
        FolderLock.take(run, "run")
        FolderLock.take(tried, "sweep")

    with child(begin) as pid:
        with pytest.raises(BusyError, match=rf"The run .* is being made by .*process {pid}"):
            distill(config(run))
        with pytest.raises(BusyError, match=rf"The sweep .* is being made by .*process {pid}"):
            sweep(SweepConfig(base=config(tried), losses=("ce",)))
        assert [path.name for path in (*run.iterdir(), *tried.iterdir())] == [LOCK, LOCK], "nothing is written"
    assert distill(config(run)).trained
    sweep(SweepConfig(base=config(tried), losses=("ce",)))
    assert not list(tmp_path.rglob(LOCK))


def test_a_run_of_a_sweep_that_another_trains_stops_the_sweep_and_marks_nothing(tmp_path: Path) -> None:
    settings = SweepConfig(base=config(tmp_path / "s"), losses=("ce", "logit-adjustment"))
    sweep(settings)
    shutil.rmtree(tmp_path / "s" / "runs" / "0001")
    with (
        child(lambda: FolderLock.take(tmp_path / "s" / "runs" / "0001", "run")),
        pytest.raises(BusyError, match=r"runs/0001 is being made by"),
    ):
        sweep(settings)
    assert [row.state for row in sweep(settings).rows] == ["done", "done"]


def test_a_finished_run_is_read_although_it_is_locked(tmp_path: Path) -> None:
    distill(config(tmp_path / "run"))
    with child(lambda: FolderLock.take(tmp_path / "run", "run")):
        assert not distill(config(tmp_path / "run")).trained
