import json
from pathlib import Path

import pytest
from kdpipe.stores import Manifest
from kdpipe.stores import manifest as manifests

from .conftest import Cli


@pytest.fixture
def store(cli: Cli) -> str:
    assert cli("extract", "--data", "digits", "--teacher", "python:my_teachers:teacher", "--out", "d.kd").code == 0
    return "d.kd"


def test_inspect_as_table_and_json(cli: Cli, store: str) -> None:
    table = cli("store", "inspect", store)
    assert table.code == 0
    for text in ("1,797 x 10", "logits float16", "ranks uint8", "my_teachers", "complete", "53.9 kB"):
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


def test_what_a_strangers_store_says_cannot_steer_the_terminal(cli: Cli, store: str) -> None:
    manifest = Manifest.read(Path(store))
    manifests.replace(manifest, owner="eve\x1b[2J", note="a\rb\u202ec", group_rule="\x9b1m").write(Path(store))
    table = cli("store", "inspect", store)
    assert (table.code, table.err) == (0, "")
    assert all(text in table.out for text in ("eve?[2J", "a?b?c", "?1m"))
    assert table.out.replace("\n", "").isprintable()
    refused = cli("store", "inspect", "no\x1b[2Jwhere.kd")
    assert refused.code == 3
    assert "no?[2Jwhere.kd" in refused.err
    assert refused.err.replace("\n", "").isprintable()


def test_unknown_command_suggests(cli: Cli) -> None:
    outcome = cli("store", "inspct")
    assert outcome.code == 2
    assert "inspect" in outcome.err


def test_inspect_an_unfinished_store_says_how_far_it_is(cli: Cli) -> None:
    arguments = ["extract", "--data", "digits", "--teacher", "python:my_teachers:teacher", "--out", "u.kd"]
    assert cli(*arguments, "--chunk-rows", "500", "--order", "shuffled:3").code == 0
    Path("u.kd/receipts/00001.json").unlink()
    path = Path("u.kd/manifest.json")
    manifests.replace(Manifest.read(Path("u.kd")), state="writing", receipts=None).write(Path("u.kd"))
    assert path.exists()
    table = cli("store", "inspect", "u.kd").out
    assert "4 of 500 rows, 3 of them written" in table
    assert "shuffled:3" in table


def test_completion_is_offered(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_KDPIPE_COMPLETE", "bash_source")
    assert "_kdpipe_completion" in cli().out
