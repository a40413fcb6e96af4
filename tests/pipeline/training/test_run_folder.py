"""A run's folder: one configuration, checkpoints that survive damage, and other people's files left alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from kdpipe.pipeline.training.run_folder import RunFolder
from kdpipe.stores.errors import KdpipeError, MismatchError, RefusedError

CONFIG: dict[str, Any] = {"out": "a", "store": "s", "workers": 1, "seed": 0, "lr": 0.1, "loss": ["kd", "ce"]}


def begun(root: Path) -> RunFolder:
    folder = RunFolder.open(root, CONFIG)
    folder.save_checkpoint(1, {"step": 1})
    return folder


def checkpoints(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in (folder.root / "checkpoints").iterdir())


def test_a_new_run_records_its_configuration(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "deep" / "run", CONFIG)
    assert json.loads((folder.root / "config.json").read_text()) == CONFIG
    assert not folder.begun
    assert folder.summary is None
    assert folder.load_checkpoint() is None
    (tmp_path / "empty").mkdir()
    assert RunFolder.open(tmp_path / "empty", CONFIG).root.name == "empty"


def test_another_configuration_is_refused_by_key_once_there_is_something_to_lose(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", {**CONFIG, "seed": 5})
    begun(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == CONFIG, "nothing was begun with the first"
    with pytest.raises(
        MismatchError, match=r"another configuration: lr is 0.1 there, 0.2 here; seed is 0 there, 1 here\. Choose"
    ):
        RunFolder.open(tmp_path / "run", {**CONFIG, "seed": 1, "lr": 0.2})
    with pytest.raises(MismatchError, match=r"ema is not set there, 0\.9 here"):
        RunFolder.open(tmp_path / "run", {**CONFIG, "ema": 0.9})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == CONFIG


def test_what_does_not_change_the_result_may_differ(tmp_path: Path) -> None:
    begun(tmp_path)
    other = {**CONFIG, "out": "b", "store": "t", "workers": 4, "checkpoint_seconds": 1.0, "tensorboard": True}
    assert RunFolder.open(tmp_path, other).load_checkpoint() == {"step": 1}


def test_a_tuple_is_the_list_it_is_written_as(tmp_path: Path) -> None:
    begun(tmp_path)
    assert RunFolder.open(tmp_path, {**CONFIG, "loss": ("kd", "ce")}).begun


def test_a_run_killed_before_it_had_a_configuration_can_be_begun(tmp_path: Path) -> None:
    (tmp_path / ".config.json~elsewhere@1-00000000.tmp").write_text("half")
    assert json.loads((RunFolder.open(tmp_path, CONFIG).root / "config.json").read_text()) == CONFIG


def test_a_run_whose_student_is_gone_is_gone_on_with_from_its_last_checkpoint(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.student.write_bytes(b"weights")
    folder.write_summary({"epochs": 1})
    assert RunFolder.open(tmp_path, CONFIG).summary == {"epochs": 1}
    folder.student.unlink()
    with pytest.raises(RefusedError, match=r"student\.safetensors is gone"):
        RunFolder.open(tmp_path, CONFIG)
    folder.save_checkpoint(7, {"step": 7})
    again = RunFolder.open(tmp_path, CONFIG)
    assert again.summary is None
    assert again.load_checkpoint() == {"step": 7}


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["ResNet"], "seed": 0}')
    for name in ("file", "full", "model"):
        with pytest.raises(RefusedError, match=r"Choose another --out"):
            RunFolder.open(tmp_path / name, CONFIG)
    assert (tmp_path / "model" / "config.json").read_text().startswith('{"architectures"')
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(KdpipeError, match=r"config\.json cannot be read"):
        RunFolder.open(tmp_path, CONFIG)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    begun(tmp_path)
    left = tmp_path / "checkpoints" / ".0000000002.pt.7-abcd.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    RunFolder.open(tmp_path, CONFIG)
    assert not left.exists()


def test_the_last_two_checkpoints_are_kept_in_order_of_steps(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, CONFIG)
    for step in (9, 10, 99, 100, 1000):
        folder.save_checkpoint(step, {"step": step, "weights": torch.arange(3)})
    assert checkpoints(folder) == ["0000000100.pt", "0000001000.pt"]
    state = folder.load_checkpoint()
    assert state is not None
    assert state["step"] == 1000
    assert torch.equal(state["weights"], torch.arange(3))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder.open(tmp_path, CONFIG)
    for step in (1, 2):
        folder.save_checkpoint(step, {"step": step, "weights": torch.full((50,), float(step))})
    path = tmp_path / "checkpoints" / "0000000002.pt"
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(0, len(whole), 211)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :] for at in range(0, len(whole), 13)]
    for content in damaged:
        path.write_bytes(content)
        caplog.clear()
        state = folder.load_checkpoint()
        assert state is not None
        assert state["step"] in (1, 2)
        assert torch.equal(state["weights"], torch.full((50,), float(state["step"]))), "never a wrong number"
        assert (state["step"] == 1) == ("0000000002.pt cannot be read" in caplog.text)
    (tmp_path / "checkpoints" / "0000000001.pt").write_bytes(b"")
    path.write_bytes(b"")
    assert folder.load_checkpoint() is None


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, CONFIG)
    torch.save({"evil": Path}, tmp_path / "evil.pt")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "evil.pt").rename(tmp_path / "checkpoints" / "0000000001.pt")
    assert folder.load_checkpoint() is None


def test_a_failed_checkpoint_leaves_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            folder.save_checkpoint(2, {"step": 2})
    assert checkpoints(folder) == ["0000000001.pt"]
    assert folder.load_checkpoint() == {"step": 1}


def test_a_finished_run_has_a_summary_and_no_checkpoints(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.write_metrics([{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 1.0}])
    folder.student.write_bytes(b"weights")
    folder.write_summary({"val": {"overall": 0.5}, "tail": None})
    again = RunFolder.open(tmp_path, CONFIG)
    assert again.summary == {"val": {"overall": 0.5}, "tail": None}
    assert again.begun
    assert checkpoints(again) == []
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.5, 1.0]
    with pytest.raises(MismatchError, match="seed"):
        RunFolder.open(tmp_path, {**CONFIG, "seed": 1})
