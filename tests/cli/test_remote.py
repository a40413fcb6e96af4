"""Stores that lie elsewhere, from the command line: the story of two teams, and what they may do wrong."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kdpipe.pipeline.training.trainer import Trainer
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.remote import client
from kdpipe.stores.remote.client import RemoteObjects
from seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer

from .conftest import Cli

DATA = "digits,split=train,imbalance=10"
MADE_BY_A = ["--owner", "team a", "--licence", "CC-BY-4.0"]
STUDENT = ["--student", "kdpipe:convnet_tiny", "--batch-size", "64", "--val", "digits,split=test"]


@pytest.fixture
def digits(cli: Cli) -> str:
    made = cli("extract", "--data", DATA, "--teacher", "python:my_teachers:teacher", "--out", "d.kd", *MADE_BY_A,
               "--chunk-rows", 16)  # fmt: skip
    assert made.code == 0, made.err
    return "d.kd"


def test_the_story_of_two_teams(cli: Cli, digits: str, bucket: str, workplace: Path) -> None:
    # team A: pushes, and pushes again
    url = f"{bucket}/digits.kd"
    pushed = cli("store", "push", digits, url, "--json")
    assert pushed.code == 0, pushed.err
    again = cli("store", "push", digits, url)
    assert "there already" in again.err
    # team B: finds it, sees that it fits, trains from where it lies
    listed = cli("store", "ls", bucket, "--fits", DATA, "--json")
    (entry,) = json.loads(listed.out)
    assert (entry["name"], entry["fits"], entry["owner"], entry["licence"]) == (
        "digits.kd", "exactly", "team a", "CC-BY-4.0",
    )  # fmt: skip
    assert entry["receipts"] == json.loads(pushed.out)["receipts"]
    table = cli("store", "ls", bucket)
    assert [
        word in table.out for word in ("digits.kd", "complete", "python:my_teachers:teacher", "float16 + ranks")
    ] == [True] * 4
    assert "team a" in cli("store", "inspect", url).out
    run = ["distill", *STUDENT, "--loss", "ltkd", "--epochs", "2", "--order", "chunks", "--out"]
    remote = cli(*run, "remote", "--store", url, "--cache", "chunks", "--cache-size", "1MB", "--json")
    assert remote.code == 0, remote.err
    local = cli(*run, "local", "--store", digits, "--json")
    assert (workplace / "remote/student.safetensors").read_bytes() == (
        workplace / "local/student.safetensors"
    ).read_bytes(), "the same rows in the same order"
    assert json.loads(remote.out)["store_id"] == json.loads(local.out)["store_id"] == entry["store_id"]
    assert any((workplace / "chunks").rglob("c/0/*/0"))
    # and pulls the ranks alone
    pulled = cli("store", "pull", url, "ranks.kd", "--arrays", "ranks")
    assert pulled.code == 0, pulled.err
    assert cli("store", "verify", "ranks.kd", "--deep").code == 0
    (parent,) = json.loads(Path("ranks.kd/manifest.json").read_text())["parents"]
    assert (parent["store_id"], parent["receipts"]) == (entry["store_id"], entry["receipts"])
    assert cli("distill", *STUDENT, "--store", "ranks.kd", "--loss", "grkd", "--epochs", "1", "--out", "run").code == 0
    finished = cli("store", "pull", url, "ranks.kd", "--arrays", "ranks")
    assert "finished already" in finished.err


def test_every_command_that_takes_a_store_takes_an_address(cli: Cli, digits: str, bucket: str, workplace: Path) -> None:
    """The same result as from the folder, for those that write a store the same store."""
    assert cli("store", "card", digits).code == 0
    assert cli("store", "push", digits, bucket).code == 0
    Path("map.csv").write_text("teacher,student\n" + "".join(f"{n},{n % 2}\n" for n in range(10)))
    makers = [
        ["merge", "STORE", "t.kd", "--groups", "thirds"], ["subset", "STORE", "--per-class", "3"],
        ["regroup", "STORE", "--groups", "counts:50,20"],
        ["map-classes", "STORE", "--map", "map.csv"], ["convert", "STORE", "--codec", "int8"],
    ]  # fmt: skip
    test = ["--data", "digits,split=test", "--teacher", "python:my_teachers:teacher", "--out", "t.kd"]
    assert cli("extract", *test, "--chunk-rows", 16).code == 0
    for command in makers:
        made = []
        for source, name in ((digits, "here"), (bucket, "there")):
            out = f"{command[0]}-{name}.kd"
            outcome = cli("store", *(source if word == "STORE" else word for word in command), "--out", out)
            assert outcome.code == 0, (command, outcome.err)
            made.append(json.loads(Path(out, "manifest.json").read_text())["receipts"])
        assert made[0] == made[1], command
    said = [
        ["store", "inspect", bucket, "--json"], ["store", "ls", bucket, "--json"], ["store", "verify", bucket, "--deep"],
        ["store", "verify", bucket, "--teacher", "python:my_teachers:teacher", "--data", DATA],
        ["store", "card", bucket, "--out", "card"], ["report", bucket, "--against", bucket, "--out", "r.html"],
        ["store", "push", bucket, f"{bucket}-copy"],
        ["store", "push", bucket, f"{bucket}-int8", "--codec", "int8", "--scratch", "."],
        ["sweep", *STUDENT, "--store", bucket, "--loss", "kd", "--epochs", "1", "--out", "sweep"],
        ["report", "sweep"], ["store", "verify", f"{bucket}-copy", "--deep"], ["store", "pull", f"{bucket}-copy", "b.kd"],
    ]  # fmt: skip
    for command in said:
        outcome = cli(*command)
        assert outcome.code == 0, (command, outcome.err)
    assert "replayed  32 rows" in cli(*said[3]).out
    for path in (path for path in Path(digits).rglob("*") if path.is_file()):
        assert Path("b.kd", path.relative_to(digits)).read_bytes() == path.read_bytes(), "the card too"
    refused = cli("store", "push", bucket, f"{bucket}-x", "--codec", "int8")
    assert (refused.code, "--scratch" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        (DATA, ["exactly"]),
        ("digits,split=train", ["perhaps"]),
        ("digits,split=test", ["perhaps"]),
    ],
)
def test_which_stores_fit(spec: str, fits: list[str], cli: Cli, digits: str) -> None:
    listed = cli("store", "ls", ".", "--fits", spec, "--json")
    assert [entry["fits"] for entry in json.loads(listed.out)] == fits


def test_a_shuffled_store_fits_too_and_other_classes_do_not(cli: Cli, workplace: Path) -> None:
    made = cli(
        "extract", "--data", DATA, "--teacher", "python:my_teachers:teacher", "--out", "s.kd", "--order", "shuffled:3"
    )
    assert made.code == 0, made.err
    assert "exactly" in cli("store", "ls", ".", "--fits", DATA).out
    for name in ("cat", "dog"):
        folder = workplace / "photos" / name
        folder.mkdir(parents=True)
        from PIL import Image

        Image.new("L", (8, 8)).save(folder / "1.png")
    assert json.loads(cli("store", "ls", ".", "--fits", "folder:photos", "--json").out) == []


@pytest.fixture
def own_server(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedServer]:
    """A server that a test may kill, in the place of the one that all share."""
    server = SeaweedServer(tmp_path / "own")
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    yield server
    server.kill()


def kill_in_training(server: SeaweedServer, patch: pytest.MonkeyPatch) -> None:
    """Kill the server after the first step of the student, while the later chunks are still to be fetched."""
    read, step, away, chunks = RemoteObjects.read, Trainer.step, threading.Event(), itertools.count()

    def held(self: RemoteObjects, path: str, *, limit: int) -> memoryview | None:
        if "/c/" in path and next(chunks) >= 60:
            assert away.wait(10)
        return read(self, path, limit=limit)

    def killing(*arguments: Any, **options: Any) -> Any:
        done = step(*arguments, **options)
        if not away.is_set():
            server.kill()
            away.set()
        return done

    patch.setattr(RemoteObjects, "read", held)
    patch.setattr(Trainer, "step", killing)


def test_the_server_is_killed_in_the_middle_of_training(
    cli: Cli, bucket: str, own_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused with the cause; when it is back, the same command goes on, to the same student."""
    made = cli("extract", "--data", DATA, "--teacher", "python:my_teachers:teacher", "--chunk-rows", 4, "--out", "d.kd")
    assert made.code == 0, made.err
    assert cli("store", "push", "d.kd", bucket).code == 0
    run = ["distill", *STUDENT, "--batch-size", "16", "--loss", "kd", "--epochs", "1"]
    assert cli(*run, "--store", "d.kd", "--order", "chunks", "--out", "undisturbed").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(client, "_RETRY_SECONDS", 0.2)
        kill_in_training(own_server, patch)
        refused = cli(*run, "--store", bucket, "--out", "run")
    assert (refused.code, "cannot be reached" in refused.err) == (1, True), refused.err
    own_server.start()
    again = cli(*run, "--store", bucket, "--out", "run")
    assert again.code == 0, again.err
    assert json.loads(Path("run/config.json").read_text())["resolved"]["order"] == "chunks"
    assert Path("run/student.safetensors").read_bytes() == Path("undisturbed/student.safetensors").read_bytes()


def test_no_secret_is_ever_shown_or_kept(
    cli: Cli, digits: str, bucket: str, server: SeaweedServer, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("store", "push", digits, bucket).code == 0
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.2)
    signed = f"{bucket.replace('s3:/', server.files)}?sig=SIGSECRET".replace("http://", "http://user:PASSSECRET@")
    nowhere = "http://user:PASSSECRET@127.0.0.1:1/a.kd?sig=SIGSECRET"
    outcomes = [
        cli("store", "inspect", signed), cli("store", "ls", signed), cli("store", "pull", signed, "b.kd"),
        cli("distill", *STUDENT, "--store", signed, "--loss", "kd", "--epochs", "1", "--out", "run"),
        cli("sweep", *STUDENT, "--store", signed, "--set", f"store={signed};{bucket}", "--loss", "kd", "--epochs", "1",
            "--out", "sweep"),
        cli("report", "run", "--out", "run.html"), cli("report", "sweep", "--out", "sweep.html"),
        cli("report", signed, "--out", "store.html"), cli("store", "card", signed, "--out", "card"),
        cli("store", "regroup", signed, "--groups", "counts:50,20", "--out", "g.kd"),
    ]  # fmt: skip
    assert {outcome.code for outcome in outcomes} == {0}, [outcome.err for outcome in outcomes]
    failing = [
        cli("-v", *command)
        for place in (nowhere, "s3://user:PASSSECRET@bucket/a?sig=SIGSECRET")
        for command in (
            ["store", "inspect", place], ["store", "ls", place], ["store", "pull", place, "c.kd"],
            ["store", "push", digits, place], ["store", "verify", place],
            ["distill", *STUDENT, "--store", place, "--loss", "kd", "--out", "run2"],
        )
    ]  # fmt: skip
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WRONGSECRET")
    failing += [cli("-v", "store", "push", digits, bucket), cli("-v", "store", "pull", bucket, "d2.kd")]
    assert all(outcome.code in (1, 2, 3) for outcome in failing)
    assert "403 SignatureDoesNotMatch" in failing[-1].err
    said = "".join(outcome.out + outcome.err for outcome in (*outcomes, *failing))
    kept = b"".join(path.read_bytes() for path in workplace.rglob("*") if path.is_file() and "aws" not in path.name)
    for secret in ("SIGSECRET", "PASSSECRET", "WRONGSECRET", ACCESS_KEY, SECRET_KEY, "Traceback"):
        assert secret not in said
        assert secret.encode() not in kept


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("store repair s3://team/a.kd", "owner can mend it"),
        ("extract --data digits --teacher x --out s3://team/a.kd", "kdpipe store push"),
        ("store import logits.npy --classes c --labels l --ids i --out s3://team/a.kd", "kdpipe store push"),
        ("store merge a.kd b.kd --out s3://team/a.kd", "kdpipe store push"),
        ("store convert a.kd --codec int8 --out s3://team/a.kd", "kdpipe store push"),
        ("store pull s3://team/b.kd s3://team/a.kd", "kdpipe store push"),
        ("store card a.kd --out s3://team/a.kd", "path of this machine"),
        ("distill --student x --out s3://team/a.kd", "path of this machine"),
        ("sweep --student x --out s3://team/a.kd", "path of this machine"),
        ("report a.kd --out s3://team/a.kd", "path of this machine"),
        ("plan --data digits --teacher x --out s3://team/a.kd", "path of this machine"),
    ],
)
def test_what_takes_a_path_says_what_to_do_with_an_address(
    command: str, advice: str, cli: Cli, workplace: Path
) -> None:
    before = set(workplace.iterdir())
    outcome = cli(*command.split())
    assert outcome.code == 2
    assert "s3://team/a.kd is an address" in outcome.err
    assert advice in outcome.err
    assert set(workplace.iterdir()) == before, "no folder of the name s3:"


def test_rows_and_views_from_the_command_line(cli: Cli, digits: str, workplace: Path) -> None:
    pulled = cli("store", "pull", digits, "part.kd", "--rows", "20-40", "--views", "0", "--json")
    assert pulled.code == 0, pulled.err
    assert verify(workplace / "part.kd", deep=True).findings == ()
    manifest = json.loads((workplace / "part.kd/manifest.json").read_text())
    assert manifest["num_samples"] == 32, "rows 16 to 47: whole chunks"
    assert json.loads(pulled.out)["store_id"] == manifest["store_id"]
    wrong = cli("store", "pull", digits, "x.kd", "--rows", "40-20")
    assert (wrong.code, "A-B" in wrong.err) == (2, True)


def test_reading_processes_do_not_hang_beside_a_remote_store(cli: Cli, digits: str, bucket: str) -> None:
    assert cli("store", "push", digits, bucket).code == 0
    run = ["distill", *STUDENT, "--store", bucket, "--loss", "kd", "--epochs", "2", "--workers", "1", "--out", "run"]
    outcome = cli(*run)
    assert outcome.code == 0, outcome.err
