import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from kdpipe.stores import Manifest, Receipt
from kdpipe.stores.files import FileRecord, record_of
from kdpipe.stores.layout import receipt_file
from kdpipe.stores.writer import receipts_checksum

from .conftest import Cli

DATA = ("--data", "digits,split=train")
TEACHER = ("--teacher", "python:my_teachers:teacher")
LOGITS = Path("payload.zarr/logits/c/0/1/0")


@pytest.fixture
def extract(cli: Cli) -> tuple[str, ...]:
    """The command that makes d.kd, which it has done."""
    command = ("extract", *DATA, *TEACHER, "--out", "d.kd", "--chunk-rows", "256")
    assert cli(*command).code == 0
    return command


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def test_a_whole_store(cli: Cli, extract: tuple[str, ...]) -> None:
    for flags in ((), ("--deep",)):
        outcome = cli("store", "verify", "d.kd", *flags)
        assert (outcome.code, outcome.err) == (0, "")
        assert "4 of 4 chunks" in outcome.out
        assert outcome.out.endswith("Whole: 0 error(s), 0 warning(s).\n")
    outcome = cli("store", "repair", "d.kd")
    assert (outcome.code, outcome.out) == (0, "d.kd is whole; nothing was changed.\n")


@pytest.mark.parametrize("form", ["zarr", "parquet"])
def test_a_colon_in_a_relative_path_makes_no_address(cli: Cli, extract: tuple[str, ...], form: str) -> None:
    for out in ("run:1/a.kd", "topk-3:b.kd"):
        assert cli(*extract, "--out", out, "--format", form).code == 0
        assert cli("store", "verify", "--deep", out).code == 0
        assert cli("store", "subset", out, "--rows", "0-99", "--out", f"part:{out}").code == 0


def test_damage_is_found_repaired_and_computed_again(cli: Cli, extract: tuple[str, ...]) -> None:
    shutil.copytree("d.kd", "before.kd")
    flip("d.kd" / LOGITS)
    assert cli("store", "verify", "d.kd").code == 0, "sizes do not tell"
    outcome = cli("store", "verify", "d.kd", "--deep")
    assert outcome.code == 3
    assert f"error     {LOGITS}: its content is not what was written" in outcome.out
    assert "Not whole: 1 error(s), 0 warning(s). Run `kdpipe store repair d.kd`." in outcome.out

    outcome = cli("store", "repair", "d.kd")
    assert outcome.code == 0
    assert "Moved 4 file(s) to d.kd/quarantine/" in outcome.out
    assert "Run the same kdpipe extract again: only these chunks are computed: 1." in outcome.out
    outcome = cli("store", "verify", "d.kd", "--deep")
    assert outcome.code == 3
    assert "not finished, 1 of 4 chunks are missing: run the same `kdpipe extract` again" in outcome.out
    assert "repair" not in outcome.out
    assert "not finished, and not damaged" in cli("store", "repair", "d.kd").out

    assert cli(*extract).code == 0
    assert cli("store", "verify", "d.kd", "--deep").code == 0
    for path in Path("before.kd").rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            assert path.read_bytes() == Path("d.kd", path.relative_to("before.kd")).read_bytes()
    before, after = (Manifest.read(Path(name)) for name in ("before.kd", "d.kd"))
    assert dataclasses.replace(after, finished=before.finished) == before


@pytest.mark.parametrize("lost", [False, True])
def test_a_manifest_is_written_anew(cli: Cli, extract: tuple[str, ...], lost: bool) -> None:
    path = Path("d.kd/manifest.json")
    before = Manifest.read(Path("d.kd"))
    path.unlink() if lost else flip(path)
    outcome = cli("store", "verify", "d.kd")
    assert outcome.code == 3
    assert f"store id {before.store_id}, no manifest" in outcome.out
    outcome = cli("store", "repair", "d.kd")
    assert (outcome.code, "to write the manifest anew, then verify --deep" in outcome.out) == (0, True)
    outcome = cli(*extract)
    assert outcome.code == 0, outcome.err
    assert cli("store", "verify", "d.kd", "--deep").code == 0
    after = Manifest.read(Path("d.kd"))
    assert dataclasses.replace(after, created=before.created, finished=before.finished) == before


def test_what_cannot_be_repaired_is_said(cli: Cli, extract: tuple[str, ...]) -> None:
    manifest = Manifest.read(Path("d.kd"))
    dataclasses.replace(manifest, receipts="xxh3-128:" + "0" * 32).write(Path("d.kd"))
    outcome = cli("store", "repair", "d.kd")
    assert outcome.code == 3
    assert "cannot be repaired, nothing was changed" in outcome.out
    assert "Restore the store from a copy, or extract into a new folder." in outcome.out


def test_json_of_verify(cli: Cli, extract: tuple[str, ...]) -> None:
    """Programs read this: fields may be added, none may go or change its meaning."""
    flip("d.kd" / LOGITS)
    Path("d.kd/notes.txt").write_text("hello")
    Path("d.kd/README.md").write_text("a card may lie there")
    outcome = cli("store", "verify", "d.kd", "--deep", "--json")
    assert outcome.code == 3
    document = json.loads(outcome.out)
    assert document.pop("store_id") == Manifest.read(Path("d.kd")).store_id
    assert document.pop("bytes_read") > 898 * 20
    assert document == {
        "whole": False,
        "path": "d.kd",
        "state": "complete",
        "deep": True,
        "findings": [
            {
                "path": str(LOGITS),
                "chunk": 1,
                "check": "checksum",
                "problem": "its content is not what was written",
                "severity": "error",
            }
        ],
        "stopped": False,
        "notes": ["notes.txt does not belong to the store"],
        "chunks": 4,
        "chunks_checked": 4,
        "chunks_missing": 0,
        "files_checked": 21,
        "rows_checked": 898,
        "rows_recomputed": 0,
        "largest_difference": None,
    }


def test_json_of_repair(cli: Cli, extract: tuple[str, ...]) -> None:
    flip("d.kd" / LOGITS)
    outcome = cli("store", "repair", "d.kd", "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert set(document) == {
        "path", "store_id", "changed", "unfinished", "quarantine", "moved", "chunks", "not_repairable", "more", "findings",
    }  # fmt: skip
    assert (document["changed"], document["unfinished"], document["chunks"]) == (True, True, [1])
    assert document["moved"][0] == "receipts/00001.json"
    assert Path("d.kd", document["quarantine"], LOGITS).exists()


def test_wrong_usage(cli: Cli, extract: tuple[str, ...]) -> None:
    assert cli("store", "verify", "nowhere.kd").code == 3
    assert cli("store", "repair", "nowhere.kd").code == 3
    for flags in (TEACHER, DATA):
        outcome = cli("store", "verify", "d.kd", *flags)
        assert (outcome.code, "--teacher and --data go together" in outcome.err) == (2, True)
    assert cli("store", "verify", "d.kd", "--rows", "0").code == 2


def test_the_teacher_confirms_or_contradicts_the_store(cli: Cli, extract: tuple[str, ...]) -> None:
    outcome = cli("store", "verify", "d.kd", *TEACHER, *DATA, "--rows", "50")
    assert outcome.code == 0, outcome.err
    assert "replayed  50 rows, logits at most 0.0" in outcome.out

    values = np.fromfile("d.kd" / LOGITS, np.float16)
    (values * np.float16(1.5)).tofile("d.kd" / LOGITS)
    _bless("d.kd" / LOGITS)
    assert cli("store", "verify", "d.kd", "--deep").code == 0, "only the teacher can tell"
    outcome = cli("store", "verify", "d.kd", *TEACHER, *DATA, "--rows", "40", "--json")
    assert outcome.code == 3
    document = json.loads(outcome.out)
    assert [(f["path"], f["chunk"], f["check"]) for f in document["findings"]] == [(str(LOGITS), 1, "replay")]
    assert document["rows_recomputed"] == 40
    assert document["largest_difference"] > 0.1


def test_a_damaged_store_is_not_replayed(cli: Cli, extract: tuple[str, ...]) -> None:
    ("d.kd" / LOGITS).unlink()
    outcome = cli("store", "verify", "d.kd", *TEACHER, *DATA)
    assert outcome.code == 3
    assert "The teacher was not run" in outcome.err


def test_another_teacher_is_refused(cli: Cli, extract: tuple[str, ...], workplace: Path) -> None:
    code = (workplace / "my_teachers.py").read_text().replace("manual_seed(1)", "manual_seed(2)")
    (workplace / "others.py").write_text(code)
    outcome = cli("store", "verify", "d.kd", "--teacher", "python:others:teacher", *DATA)
    assert (outcome.code, "has other weights" in outcome.err) == (3, True)


def _bless(path: Path) -> None:
    """Make receipt and manifest fit a changed file of chunk 1."""
    root = Path("d.kd")
    manifest = Manifest.read(root)
    receipt = Receipt.read(root, manifest.grid, 1)
    name = path.relative_to(root).as_posix()
    records: list[FileRecord] = [
        record_of(name, path.read_bytes()) if record.path == name else record for record in receipt.files
    ]
    dataclasses.replace(receipt, files=tuple(records)).write(root)
    assert (root / receipt_file(1)).exists()
    dataclasses.replace(manifest, receipts=receipts_checksum(root, manifest)).write(root)
