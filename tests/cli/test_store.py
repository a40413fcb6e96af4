import json
from pathlib import Path

import pytest

from .conftest import Cli


@pytest.fixture
def store(cli: Cli) -> str:
    assert cli("extract", "--data", "digits", "--teacher", "python:my_teachers:teacher", "--out", "d.kd").code == 0
    return "d.kd"


def test_inspect_as_table_and_json(cli: Cli, store: str) -> None:
    table = cli("store", "inspect", store)
    assert table.code == 0
    for text in ("1,797 x 10", "logits float16", "ranks uint8", "my_teachers", "complete"):
        assert text in table.out
    document = json.loads(cli("store", "inspect", store, "--json").out)
    assert document == json.loads(Path(store, "manifest.json").read_text())


def test_inspect_nothing(cli: Cli) -> None:
    outcome = cli("store", "inspect", "nowhere.kd")
    assert outcome.code == 3
    assert "Is this a kdpipe store?" in outcome.err


def test_inspect_a_newer_store(cli: Cli, store: str) -> None:
    path = Path(store, "manifest.json")
    path.write_text(path.read_text().replace('"format_version": "1.0"', '"format_version": "2.0"'))
    outcome = cli("store", "inspect", store)
    assert outcome.code == 3
    assert "Upgrade" in outcome.err


def test_unknown_command_suggests(cli: Cli) -> None:
    outcome = cli("store", "inspct")
    assert outcome.code == 2
    assert "inspect" in outcome.err
