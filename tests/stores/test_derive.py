"""A store made from another: resumed after a kill, verified before it is finished, and never mixed with another one."""

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kdpipe.stores import CorruptStoreError, Manifest, MismatchError, RefusedError, Store, StoreWriter, UsageError
from kdpipe.stores.checks.repair import repair
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.claims import Claim
from kdpipe.stores.derive import check_apart, derive, derived_manifest, open_source, parent_of, source_samples
from kdpipe.stores.manifest import Parent
from kdpipe.stores.reshape.subset import Subset, subset

WriteStore = Callable[..., Any]


@pytest.fixture(scope="module")
def source(write_store: WriteStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2 views with 5 chunks each."""
    path = tmp_path_factory.mktemp("source") / "a.kd"
    write_store(path, 18, 5, 4, num_views=2, owner="team a", licence="CC0")
    return path


def manifest_of(source: Path, change: str = "copied") -> Manifest:
    whole = open_source(source).manifest
    return derived_manifest(whole, [parent_of(whole, change)])


def copying(store: Store) -> Callable[[StoreWriter, int], object]:
    samples = source_samples(store)

    def write_chunk(writer: StoreWriter, chunk: int) -> None:
        grid = writer.manifest.grid
        rows, view = grid.rows(chunk), grid.view(chunk)
        arrays = store.read(np.arange(rows.start, rows.stop), arrays=("logits", "ranks"), view=view)
        table = samples.slice(rows.start, len(rows)) if view == 0 else None
        writer.write_chunk(chunk, arrays, table, store.receipt(chunk).inputs)

    return write_chunk


def copy(source: Path, out: Path) -> Manifest:
    store = open_source(source)
    return derive(out, manifest_of(source), store.classes, copying(store))


def payload_of(root: Path) -> dict[str, bytes]:
    """Every file whose bytes do not depend on when the store was made."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_derived_store_is_whole_and_says_where_it_comes_from(source: Path, tmp_path: Path) -> None:
    whole, made = open_source(source).manifest, copy(source, tmp_path / "b.kd")
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    assert made.parents == (Parent(store_id=whole.store_id, receipts=whole.receipts, change="copied"),)
    assert made.store_id not in ("", whole.store_id)
    assert made.receipts == whole.receipts, "the same chunks"
    assert (made.owner, made.licence, made.teacher) == (whole.owner, whole.licence, whole.teacher)
    assert made.accuracy != whole.accuracy, "it is measured, not taken over"
    assert copy(source, tmp_path / "b.kd") == made, "a finished one is left as it is"
    again = derived_manifest(made, [parent_of(made, "copied")])
    assert again.parents[0].parents == made.parents, "history is not lost"


def test_the_id_depends_on_parents_and_change(source: Path) -> None:
    whole = open_source(source).manifest
    one = manifest_of(source)
    assert one.store_id == manifest_of(source).store_id
    other = dataclasses.replace(whole, receipts="xxh3-128:" + "0" * 32)
    others = [manifest_of(source, "turned round"), derived_manifest(whole, [parent_of(other, "copied")])]
    assert len({one.store_id, *(manifest.store_id for manifest in others)}) == 3


@pytest.mark.parametrize("fails_at", [0, 3, 9])
def test_it_goes_on_with_the_chunks_that_are_missing(source: Path, tmp_path: Path, fails_at: int) -> None:
    store, made = open_source(source), []
    write_copy = copying(store)

    def write_chunk(writer: StoreWriter, chunk: int) -> None:
        if len(made) == fails_at:
            raise OSError("the disk is full")
        write_copy(writer, chunk)
        made.append(chunk)

    progress: list[tuple[int, int]] = []
    with pytest.raises(OSError, match="full"):
        derive(tmp_path / "b.kd", manifest_of(source), store.classes, write_chunk)
    assert Manifest.read(tmp_path / "b.kd").state == "writing"
    assert not (tmp_path / "b.kd" / "locks").exists(), "its claims are given up"
    fails_at = -1
    derive(
        tmp_path / "b.kd", manifest_of(source), store.classes, write_chunk,
        on_progress=lambda done, total: progress.append((done, total)),
    )  # fmt: skip
    assert sorted(made) == list(range(10)), "each chunk once"
    assert progress[-1] == (10, 10)
    copy(source, tmp_path / "c.kd")
    assert payload_of(tmp_path / "b.kd") == payload_of(tmp_path / "c.kd")


KILLED = """
import os, signal, sys
from pathlib import Path
from kdpipe.stores import files
from kdpipe.stores.reshape.subset import Subset, subset

steps = 0

def kill(step, path):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

files.on_step = kill
subset(sys.argv[1], sys.argv[2], Subset(rows=((1, 16),)), chunk_rows=4)
"""


@pytest.mark.parametrize("step", [2, 9, 42, 77, 120])
def test_killed_anywhere_the_same_call_ends_with_the_same_store(source: Path, tmp_path: Path, step: int) -> None:
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "b.kd"), str(step)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    part = Subset(rows=((1, 16),))
    if (tmp_path / "b.kd" / "manifest.json").exists():
        assert Manifest.read(tmp_path / "b.kd").state == "writing"
        with pytest.raises(RefusedError, match="Run the same command again"):
            open_source(tmp_path / "b.kd")
    made = subset(source, tmp_path / "b.kd", part, chunk_rows=4)
    never = subset(source, tmp_path / "c.kd", part, chunk_rows=4)
    assert payload_of(tmp_path / "b.kd") == payload_of(tmp_path / "c.kd")
    assert (made.store_id, made.receipts) == (never.store_id, never.receipts)


def test_what_is_damaged_later_is_repaired_and_made_again(source: Path, tmp_path: Path) -> None:
    made = copy(source, tmp_path / "b.kd")
    before = payload_of(tmp_path / "b.kd")
    for name in ("payload.zarr/logits/c/1/2/0", "samples/00003.parquet", "classes.parquet"):
        (tmp_path / "b.kd" / name).write_bytes(b"spoiled")
    assert repair(tmp_path / "b.kd").chunks == (3, 7)
    with pytest.raises(RefusedError, match="Run the same command again"):
        open_source(tmp_path / "b.kd")
    assert copy(source, tmp_path / "b.kd").receipts == made.receipts
    now = payload_of(tmp_path / "b.kd")
    assert {name: now[name] for name in before} == before


def test_what_contradicts_itself_is_never_finished(source: Path, tmp_path: Path) -> None:
    store = open_source(source)

    def write_chunk(writer: StoreWriter, chunk: int) -> None:
        rows = writer.manifest.grid.rows(chunk)
        arrays = store.read(np.arange(rows.start, rows.stop), arrays=("logits", "ranks"))
        arrays["ranks"] = arrays["ranks"][:, ::-1]
        samples = source_samples(store).slice(rows.start, len(rows)) if writer.manifest.grid.view(chunk) == 0 else None
        writer.write_chunk(chunk, arrays, samples)

    with pytest.raises(CorruptStoreError, match="not finished"):
        derive(tmp_path / "b.kd", manifest_of(source), store.classes, write_chunk)
    assert Manifest.read(tmp_path / "b.kd").state == "writing"


def test_a_chunk_that_is_never_whole_ends_it(source: Path, tmp_path: Path) -> None:
    store = open_source(source)
    write_copy = copying(store)

    def write_chunk(writer: StoreWriter, chunk: int) -> None:
        write_copy(writer, chunk)
        (writer.root / "payload.zarr/logits/c/0/0/0").write_bytes(b"")

    with pytest.raises(CorruptStoreError, match="chunk 0 is not whole"):
        derive(tmp_path / "b.kd", manifest_of(source), store.classes, write_chunk)


def test_another_derivation_is_not_mixed_in(source: Path, tmp_path: Path) -> None:
    store = open_source(source)
    copy(source, tmp_path / "b.kd")
    with pytest.raises(MismatchError, match="parents"):
        derive(tmp_path / "b.kd", manifest_of(source, "turned round"), store.classes, copying(store))
    with pytest.raises(UsageError, match="the store itself"):
        check_apart(source.parent / "." / source.name, [store])


@pytest.mark.parametrize("name", ["samples/00001.parquet", "payload.zarr/logits/c/1/2/0"])
def test_a_damaged_source_is_refused(write_store: WriteStore, tmp_path: Path, name: str) -> None:
    write_store(tmp_path / "a.kd", 18, 5, 4, num_views=2)
    file = tmp_path / "a.kd" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="receipt says"):
        copy(tmp_path / "a.kd", tmp_path / "b.kd")


def test_chunks_of_another_process_are_waited_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, waits = open_source(source), []
    StoreWriter.open(tmp_path / "b.kd", manifest_of(source), store.classes)
    claim = tmp_path / "b.kd" / "locks" / "00004.json"
    claim.parent.mkdir()
    claim.write_bytes(msgspec.json.encode(dataclasses.replace(Claim.mine(), host="elsewhere")))

    def given_up(seconds: float) -> None:
        waits.append(seconds)
        claim.unlink()

    monkeypatch.setattr("time.sleep", given_up)
    made = copy(source, tmp_path / "b.kd")
    assert len(waits) == 1
    assert made.state == "complete"
    assert len(list((tmp_path / "b.kd" / "receipts").iterdir())) == 10
