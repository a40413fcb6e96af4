import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from .conftest import Cli

PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"
DATA = "digits,split=train,imbalance=10"
SWEEP = ["--student", "kdpipe:convnet_tiny", "--epochs", "1", "--batch-size", "64", "--val", "digits,split=test"]


@pytest.fixture
def store(cli: Cli) -> str:
    arguments = ["--data", DATA, "--teacher", "python:my_teachers:teacher", "--write", "logits", "--out", "d.kd"]
    assert cli("extract", *arguments).code == 0
    return "d.kd"


def test_a_sweep_ranks_its_settings(cli: Cli, store: str) -> None:
    arguments = ["sweep", "--store", store, *SWEEP, "--loss", "kd", "--loss", "ce", "--set", "lr=0.1,0.05",
                 "--set", "loss.temperature=2,4", "--seeds", "0,1", "--out", "s"]  # fmt: skip
    outcome = cli(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    shown = json.loads(outcome.out)
    means = [standing["mean"]["balanced"] for standing in shown["leaderboard"]]
    assert means == sorted(means, reverse=True)
    assert len(means) == 6
    assert shown["best"] == "s/best.safetensors"
    table = pq.read_table(shown["trials"])
    assert table.num_rows == 12
    assert {"lr", "loss.temperature", "seed", "store_id", "seconds"} <= set(table.column_names)
    assert outcome.err.count("  done  ") == 12
    again = cli(*arguments)
    assert again.code == 0
    assert "  done  " not in again.err, "nothing is trained again"
    lines = again.out.splitlines()
    assert "mean and standard deviation of up to 2 seeds" in lines[0]
    assert lines[1].split()[:4] == ["student", "loss", "settings", "seeds"]
    assert lines[2].startswith("1  kdpipe:convnet_tiny")
    assert lines[-1] == "best student: s/best.safetensors"


def test_the_recorded_configuration_can_be_run_again(cli: Cli, store: str) -> None:
    arguments = ["sweep", "--store", store, *SWEEP, "--loss", "kd", "--set", "milestones=1,2;", "--set", "lr=0.1,0.05"]
    assert cli(*arguments, "--schedule", "step", "--out", "one").code == 0
    outcome = cli("sweep", "--config", "one/config.json", "--out", "two")
    assert outcome.code == 0, outcome.err
    other = cli("distill", "--config", "one/config.json", "--out", "run")
    assert (other.code, "one/config.json is the configuration of a sweep" in other.err) == (2, True), other.err
    one, two = (pq.read_table(f"{name}/trials.parquet").drop_columns(["seconds"]) for name in ("one", "two"))
    assert one == two


def test_a_trial_that_diverges_is_marked_and_the_sweep_is_done(cli: Cli, store: str) -> None:
    arguments = ["sweep", "--store", store, *SWEEP, "--loss", "kd", "--set", "lr=0.05,1e30", "--out", "s"]
    outcome = cli(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert list(json.loads(outcome.out)["lost"]) == ["0001"]
    assert "diverged" in outcome.err
    only = cli("sweep", "--store", store, *SWEEP, "--loss", "kd", "--lr", "1e30", "--out", "t")
    assert only.code == 1
    assert "No trial of t was done" in only.err


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--loss": "gkrd"}, 2, "Did you mean 'grkd'?"),
        ({"--loss": "grkd"}, 3, "The loss 'grkd' needs 'ranks'"),
        ({"--student": "kdpipe:convnet_tny"}, 2, "Did you mean 'convnet_tiny'?"),
        ({"--set": "learning-rate=1"}, 2, "Unknown option to set 'learning_rate'"),
        ({"--set": "epoch=1"}, 2, "Did you mean 'epochs'?"),
        ({"--set": "loss.temprature=1"}, 2, "Did you mean 'loss.temperature'?"),
        ({"--set": "lr="}, 2, "the grid is empty"),
        ({"--seeds": ","}, 2, "the grid is empty"),
        ({"--set": "lr=fast"}, 2, "--set lr=fast cannot be read"),
        ({"--set": "epochs=1,2", "--prune": "halving"}, 2, "Leave out --set epochs"),
        ({"--set": "store=gone.kd"}, 3, "Is this a kdpipe store?"),
        ({"--store": "gone.kd"}, 3, "Is this a kdpipe store?"),
        ({"--set": "groups=thirds,single"}, 2, "The store has the class groups"),
        ({"--search": "tpe"}, 2, "Give --search tpe and --trials N"),
        ({"--cohort": "some"}, 2, "neither auto nor a whole number"),
        ({"--cpus": "2"}, 2, "Give --engine ray, too"),
        ({"--engine": "rays"}, 2, "'rays' is not one of 'local', 'ray'"),
        ({"--val": ""}, 2, "names nothing"),
    ],
)
def test_wrong_usage_writes_nothing(cli: Cli, store: str, changes: dict[str, str], code: int, message: str) -> None:
    flags = dict(zip(SWEEP[::2], SWEEP[1::2], strict=True)) | {"--store": store, "--loss": "kd", "--out": "s"} | changes
    outcome = cli("sweep", *(part for flag in flags.items() for part in flag))
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err
    assert not Path("s/runs").exists()


def test_without_optuna_the_extra_is_named(cli: Cli, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    outcome = cli("sweep", "--store", store, *SWEEP, "--loss", "kd", "--search", "tpe", "--trials", "1", "--out", "s")
    assert outcome.code == 1
    assert "kdpipe[sweep]" in outcome.err
    assert not Path("s").exists()


def test_under_torchrun_a_sweep_is_refused(cli: Cli, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    outcome = cli("sweep", "--store", store, *SWEEP, "--loss", "kd", "--out", "s")
    assert (outcome.code, "Run it without torchrun" in outcome.err) == (2, True), outcome.err
    assert not Path("s").exists()


def test_the_commands_of_the_page_run_in_its_order(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("ray")
    text = PAGE.read_text()
    lines = re.sub(r"\\\n", "", "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)))
    lines = lines.replace("--epochs 10", "--epochs 2")  # 10 say no more than 2
    shown = 0
    for command, *arguments in (
        shlex.split(line) for line in re.findall(r"^(?:kdpipe|python -c \"[^\"]*\").*", lines, re.MULTILINE)
    ):
        if command == "kdpipe":
            outcome = cli(*arguments)
            assert outcome.code == 0, outcome.err
            shown += outcome.out.count("best student: ")
        else:
            exec(arguments[1], {})
            assert "kd + grkd,weight=10 0.1 2 0 done" in capsys.readouterr().out
    assert shown == 4
    found = {name: pq.read_table(f"sweeps/{name}/trials.parquet") for name in ("first", "tpe", "halving", "cluster")}
    assert {name: table.num_rows for name, table in found.items()} == {
        "first": 30, "tpe": 8, "halving": 8, "cluster": 4,
    }  # fmt: skip
    assert found["halving"]["state"].to_pylist().count("pruned") == 4
    columns = re.findall(r"`(\w+)`", text.partition("| column | |")[2].partition("Apart from")[0])
    assert set(found["first"].column_names) <= {*columns, "lr", "loss.temperature"}
