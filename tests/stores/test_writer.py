"""Writing: any interruption and any order give the same store; nothing that is not a store is touched."""

import asyncio
import dataclasses
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdpipe.stores import (
    Accuracy,
    CorruptStoreError,
    Manifest,
    MismatchError,
    RefusedError,
    StoreWriter,
    UsageError,
    open_store,
    tables,
    writer,
)
from kdpipe.stores.files import file_checksum
from kdpipe.stores.layout import MANIFEST, array_file, receipt_file, samples_file
from kdpipe.stores.manifest import InputDigest, replace


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file by its path, the manifest without what may differ between two runs."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    if MANIFEST in files:
        body = msgspec.json.decode(files[MANIFEST])
        kept = {name: value for name, value in body.items() if name not in ("created", "finished", "checksum")}
        files[MANIFEST] = msgspec.json.encode(kept)
    return files


def test_a_finished_store_holds_these_files(tmp_path, make_store):
    make_store(tmp_path / "a.kd", 10, 5, 4, num_views=2)
    chunks = [f"payload.zarr/{name}/c/{v}/{b}/0" for name in ("logits", "ranks") for v in range(2) for b in range(3)]
    documents = ["payload.zarr/zarr.json", "payload.zarr/logits/zarr.json", "payload.zarr/ranks/zarr.json"]
    tables = ["classes.parquet", *(f"samples/0000{block}.parquet" for block in range(3))]
    receipts = [f"receipts/0000{chunk}.json" for chunk in range(6)]
    assert sorted(snapshot(tmp_path / "a.kd")) == sorted([*chunks, *documents, *tables, *receipts, MANIFEST])


def test_manifest_and_receipts_name_every_file_with_its_checksum(tmp_path, make_store):
    make_store(tmp_path / "a.kd", 10, 5, 4, num_views=2)
    store = open_store(tmp_path / "a.kd")
    records = [*store.manifest.files, *itertools.chain(*(store.receipt(chunk).files for chunk in range(6)))]
    named = {record.path for record in records} | {MANIFEST, *(receipt_file(chunk) for chunk in range(6))}
    assert named == set(snapshot(store.path))
    for record in records:
        assert record.bytes == (store.path / record.path).stat().st_size
        assert record.checksum == file_checksum(store.path / record.path)
    assert store.manifest.receipts == writer.receipts_checksum(store.path, store.manifest)


def test_processes_that_begin_at_once_agree(tmp_path, content, monkeypatch):
    """All find no manifest; the first one's batch size holds for all. Threads stand for processes."""
    together, look = threading.Barrier(6), writer._is_foreign

    def look_together(*arguments):
        together.wait()
        return look(*arguments)

    monkeypatch.setattr(writer, "_is_foreign", look_together)

    def begin(batch_size):
        made = content(batch_size=batch_size)
        return StoreWriter.open(tmp_path / "a.kd", made.manifest, made.classes).manifest.batch_size

    with ThreadPoolExecutor(6) as pool:
        sizes = set(pool.map(begin, range(1, 7)))
    assert sizes == {Manifest.read(tmp_path / "a.kd").batch_size}


def test_what_is_finished_while_another_process_begins_stays_finished(tmp_path, content, monkeypatch):
    made = content()
    first = made.write(tmp_path / "a.kd")

    def meanwhile(table):
        monkeypatch.setattr(writer, "to_parquet", tables.to_parquet)
        first.finish()
        return tables.to_parquet(table)

    monkeypatch.setattr(writer, "to_parquet", meanwhile)
    late = StoreWriter.open(tmp_path / "a.kd", made.manifest, made.classes)
    assert late.complete
    assert open_store(tmp_path / "a.kd").manifest == first.manifest


@given(data=st.data())
@settings(max_examples=15)
def test_any_order_and_any_interruption_give_the_same_bytes(tmp_path_factory, make_store, content, data):
    folder = tmp_path_factory.mktemp("stores")
    shape = (11, 5, 4)
    made = make_store(folder / "straight", *shape, num_views=2)
    other = content(*shape, num_views=2, created="2030-01-01T00:00:00+00:00")
    order = data.draw(st.permutations(range(6)))
    stops = sorted(data.draw(st.sets(st.integers(0, 6), max_size=3)))
    for start, stop in itertools.pairwise([0, *stops, 6]):
        begun = StoreWriter.open(folder / "other", other.manifest, other.classes)
        assert begun.missing_chunks() == sorted(order[start:])
        for chunk in order[start:stop]:
            other.write_chunk(begun, chunk)
    StoreWriter.open(folder / "other", other.manifest, other.classes).finish()
    assert snapshot(folder / "other") == snapshot(folder / "straight")
    assert open_store(folder / "other").manifest.receipts == open_store(folder / "straight").manifest.receipts
    assert made.manifest.store_id == open_store(folder / "other").manifest.store_id


@pytest.mark.parametrize(
    "harm", ["no receipt", "cut receipt", "receipt of another chunk", "no file", "truncated file", "longer table"]
)
def test_a_damaged_chunk_is_missing_again_and_is_healed(tmp_path, content, make_store, harm):
    made, root = content(10, 5, 4), tmp_path / "a.kd"
    made.write(root)
    receipt, logits = root / receipt_file(1), root / array_file("logits", 0, 1)
    match harm:
        case "no receipt":
            receipt.unlink()
        case "cut receipt":
            os.truncate(receipt, 20)
        case "receipt of another chunk":
            receipt.write_bytes((root / receipt_file(0)).read_bytes())
        case "no file":
            logits.unlink()
        case "truncated file":
            os.truncate(logits, 3)
        case "longer table":
            with (root / samples_file(1)).open("ab") as file:
                file.write(b"\0")
    begun = StoreWriter.open(root, made.manifest, made.classes)
    assert begun.missing_chunks() == [1]
    with pytest.raises(RefusedError, match=r"lacks 1 of 3 chunks\. Run extract again"):
        begun.finish()
    assert Manifest.read(root).state == "writing"
    made.write_chunk(begun, 1)
    begun.finish()
    make_store(tmp_path / "b.kd", 10, 5, 4)
    assert snapshot(root) == snapshot(tmp_path / "b.kd")


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("num_samples", {"num_samples": 9}),
        ("chunk_rows", {"chunk_rows": 5}),
        ("num_views", {"num_views": 2}),
        ("arrays", {"dtype": "float32"}),
        ("arrays", {"arrays": ["logits"]}),
        ("arrays", {"rank_depth": 3}),
        ("preprocessing", {"preprocessing": {"resize": 255}}),
        ("group_rule", {"group_rule": "counts:100,20"}),
        ("order", {"order": "shuffled"}),
        ("precision", {"precision": "bf16"}),
    ],
)
@pytest.mark.parametrize("finished", [False, True], ids=["writing", "finished"])
def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path, content, name, changed, finished):
    root = tmp_path / "a.kd"
    begun = content(10, 5, 4).write(root)
    if finished:
        begun.finish()
    before = snapshot(root)
    other = content(**({"num_samples": 10, "num_classes": 5, "chunk_rows": 4} | changed))
    with pytest.raises(MismatchError, match=rf"other settings: .*{name.replace('_', '-')}.*Choose another --out"):
        StoreWriter.open(root, other.manifest, other.classes)
    assert snapshot(root) == before


def test_other_weights_of_the_same_teacher_are_named(tmp_path, content):
    made = content(10, 5, 4)
    made.write(tmp_path / "a.kd")
    there = made.manifest.teacher.checksum
    retrained = replace(made.manifest, teacher=dataclasses.replace(made.manifest.teacher, checksum=there[:-4] + "beef"))
    with pytest.raises(MismatchError, match=rf"checksum of the teacher's weights is {there} there, \S*beef here\. Ch"):
        StoreWriter.open(tmp_path / "a.kd", retrained, made.classes)


def test_what_decides_no_number_may_differ(tmp_path, content):
    content(batch_size=32, note="first").write(tmp_path / "a.kd")
    other = content(batch_size=64, note="second", device="cuda", preprocessing=content().manifest.preprocessing)
    begun = StoreWriter.open(tmp_path / "a.kd", other.manifest, other.classes)
    assert begun.missing_chunks() == []
    assert (begun.manifest.batch_size, begun.manifest.note) == (32, "first"), "a store keeps its own"


@pytest.mark.parametrize(
    "inside", ["thesis.txt", ".git", "folder/a", None], ids=["file", "hidden", "folder", "no folder"]
)
def test_what_is_not_a_store_is_refused_untouched(tmp_path, content, inside):
    root, made = tmp_path / "a.kd", content()
    file = root / inside if inside else root
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"years of work")
    before = list(tmp_path.rglob("*"))
    with pytest.raises(RefusedError, match=r"is not a kdpipe store\. Choose another --out"):
        StoreWriter.open(root, made.manifest, made.classes)
    assert list(tmp_path.rglob("*")) == before
    assert file.read_bytes() == b"years of work"


def test_a_damaged_manifest_is_never_written_over(tmp_path, content):
    made = content()
    made.write(tmp_path / "a.kd")
    os.truncate(tmp_path / "a.kd" / MANIFEST, 100)
    with pytest.raises(CorruptStoreError):
        StoreWriter.open(tmp_path / "a.kd", made.manifest, made.classes)
    assert (tmp_path / "a.kd" / MANIFEST).stat().st_size == 100


def test_an_empty_folder_becomes_a_store(tmp_path, content):
    (tmp_path / "a.kd").mkdir()
    content().write(tmp_path / "a.kd").finish()
    assert open_store(tmp_path / "a.kd")


def test_a_kill_before_the_first_manifest_does_not_bar_the_folder(tmp_path, content):
    (tmp_path / "a.kd").mkdir()
    (tmp_path / "a.kd" / f".manifest.json~{socket.gethostname()}@99999999-00ff00ff.tmp").write_bytes(b"{")
    content().write(tmp_path / "a.kd").finish()
    assert not list((tmp_path / "a.kd").rglob(".*"))


def test_what_killed_writers_left_is_removed_on_resume(tmp_path, content):
    made, root = content(10, 5, 4), tmp_path / "a.kd"
    made.write(root, chunks=[0])
    for folder in (root, root / "receipts", root / "payload.zarr/logits/c/0/1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".0~{socket.gethostname()}@99999999-0123abcd.tmp").write_bytes(b"half")
    begun = StoreWriter.open(root, made.manifest, made.classes)
    assert begun.missing_chunks() == [1, 2]
    assert not list(root.rglob(".*"))


def test_a_finished_store_opened_again_is_complete_and_unchanged(tmp_path, make_store):
    root = tmp_path / "a.kd"
    made = make_store(root, 10, 5, 4)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*")}
    again = StoreWriter.open(root, made.manifest, made.classes)
    assert again.complete
    assert again.missing_chunks() == []
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*")} == before


def test_finishing_states_the_accuracy_and_the_time(tmp_path, content):
    accuracy = Accuracy(overall=0.5, balanced=0.25, head=1.0)
    begun = content().write(tmp_path / "a.kd")
    assert not begun.complete
    manifest = begun.finish(accuracy)
    assert begun.complete
    assert manifest.to_json() == (tmp_path / "a.kd" / MANIFEST).read_bytes()
    assert manifest.accuracy == accuracy
    assert manifest.finished is not None
    assert manifest.finished.endswith("+00:00")


def _wrong(made, name):
    arrays = {"logits": made.logits[0, :4], "ranks": made.ranks[0, :4]}
    samples = made.samples.slice(0, 4)
    match name:
        case "fewer rows":
            arrays["logits"] = arrays["logits"][:3]
        case "one column":
            arrays["logits"] = arrays["logits"][:, :1]
        case "more columns":
            arrays["ranks"] = np.zeros((4, 6), np.uint8)
        case "flat":
            arrays["ranks"] = arrays["ranks"].ravel()
        case "no ranks":
            del arrays["ranks"]
        case "no samples":
            samples = None
        case "fewer samples":
            samples = samples.slice(0, 3)
    return arrays, samples


@pytest.mark.parametrize(
    "wrong", ["fewer rows", "one column", "more columns", "flat", "no ranks", "no samples", "fewer samples"]
)
def test_a_chunk_of_the_wrong_shape_is_refused_and_not_written(tmp_path, content, wrong):
    made = content(10, 5, 4)
    begun = made.write(tmp_path / "a.kd", chunks=[])
    before = snapshot(tmp_path / "a.kd")
    with pytest.raises(UsageError, match="Chunk 0 needs"):
        begun.write_chunk(0, *_wrong(made, wrong))
    assert snapshot(tmp_path / "a.kd") == before


@pytest.mark.parametrize("chunk", [-1, 3])
def test_a_chunk_out_of_the_grid_is_refused(tmp_path, content, chunk):
    made = content(10, 5, 4)
    begun = made.write(tmp_path / "a.kd", chunks=[])
    with pytest.raises(UsageError, match="it has 3, from 0"):
        begun.write_chunk(chunk, *_wrong(made, "nothing"))


@pytest.mark.parametrize(
    "fields",
    [{"note": "x" * 5000}, {"format_version": "one"}, {"device": None}, {"preprocessing": {"x": "x" * 17_000_000}}],
    ids=["long text", "version", "type", "size"],
)
def test_a_store_that_no_reader_would_open_is_not_begun(tmp_path, content, fields):
    made = content(**fields)
    with pytest.raises(UsageError, match="manifest cannot be written"):
        StoreWriter.open(tmp_path / "a.kd", made.manifest, made.classes)
    assert not (tmp_path / "a.kd" / MANIFEST).exists()


def test_an_accuracy_that_is_no_number_does_not_spoil_the_store(tmp_path, content):
    begun = content().write(tmp_path / "a.kd")
    with pytest.raises(UsageError, match="manifest cannot be written"):
        begun.finish(Accuracy(overall=float("nan"), balanced=0.5))
    assert not begun.complete
    assert StoreWriter.open(tmp_path / "a.kd", begun.manifest, content().classes).missing_chunks() == []


def test_a_store_is_begun_inside_a_running_event_loop(tmp_path, content):
    """As in a notebook."""

    async def cell():
        content().write(tmp_path / "a.kd").finish()

    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop already, of the tests with a browser
        pool.submit(lambda: asyncio.run(cell())).result()
    assert open_store(tmp_path / "a.kd")


KILLED_WRITER = """
import os, pickle, signal, sys
from kdpipe.stores import StoreWriter, files
root, manifest, classes, chunks, kill_at = pickle.load(sys.stdin.buffer)
calls = 0
def fsync(descriptor):
    global calls
    calls += 1
    if calls > kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
writer = StoreWriter.open(root, manifest, classes)
for chunk in writer.missing_chunks():
    writer.write_chunk(chunk, *chunks[chunk])
writer.finish()
"""


def test_a_writer_killed_anywhere_loses_at_most_its_chunk(tmp_path, content, make_store):
    """Every run is killed a little later than the last; together they write the store."""
    made, root = content(10, 5, 4), tmp_path / "a.kd"
    grid = made.manifest.grid
    chunks = []
    for chunk in range(grid.num_chunks):
        rows = grid.rows(chunk)
        arrays = {name: made.stored(name)[rows] for name in ("logits", "ranks")}
        digests = [InputDigest(row=rows.start, digest="blake2b:00")]
        chunks.append((arrays, made.samples.slice(rows.start, len(rows)), digests))
    done: list[int] = []
    for kill_at in (0, 1, 3, 9, 13, 15, 10**6):
        child = subprocess.run(
            [sys.executable, "-c", KILLED_WRITER],
            input=pickle.dumps((root, made.manifest, made.classes, chunks, kill_at)),
            capture_output=True,
            timeout=60,
        )
        assert child.returncode == (0 if kill_at == 10**6 else -signal.SIGKILL), child.stderr.decode()
        if (root / MANIFEST).exists():
            missing = StoreWriter(root, Manifest.read(root)).missing_chunks()
            now = [chunk for chunk in range(3) if chunk not in missing]
            assert set(now) >= set(done), "no chunk is lost"
            done = now
    make_store(tmp_path / "b.kd", 10, 5, 4)
    assert done == [0, 1, 2]
    assert snapshot(root) == snapshot(tmp_path / "b.kd")
