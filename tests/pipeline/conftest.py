"""Fixtures the pipeline's tests share."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a module of this name into the working directory, where ``python:`` specs look for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


@pytest.fixture(scope="session")
def view_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One store of three augmented views for every spec, and one without augmentation, by name."""
    from viewed import make_stores

    return make_stores(tmp_path_factory.mktemp("views"))
