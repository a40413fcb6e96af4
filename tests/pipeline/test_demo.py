"""The demo writes into a folder of its own only."""

from pathlib import Path

import pytest
from kdpipe.pipeline import demo as module
from kdpipe.stores import RefusedError


@pytest.mark.parametrize("name", ["train", "ce-7", "notes.txt"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RefusedError, match="Choose another --out"):
        module.demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_demo_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        pass

    def stop(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(module, "distill", stop)
    for name in ("teacher", "digits.kd", "ce-0", "ltkd-2"):
        (tmp_path / name).mkdir()
    with pytest.raises(Reached):
        module.demo(tmp_path)
