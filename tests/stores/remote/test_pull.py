"""Pulling: a store, or a part of one that is a store by itself, and never anything that is not what was written."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError, MismatchError, MissingArrayError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.repair import repair
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.files import record_of
from kdpipe.stores.layout import array_file, receipt_file
from kdpipe.stores.manifest import Manifest
from kdpipe.stores.remote.client import RemoteObjects
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.objects import open_objects
from kdpipe.stores.remote.pull import MARK, pull
from kdpipe.stores.remote.push import push
from kdpipe.stores.remote.selection import Selection
from seaweed import SeaweedServer


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def pushed(store: Path, bucket: str) -> str:
    push(store, bucket)
    return bucket


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.sampled_from([(), ("logits",), ("ranks",), ("ranks", "logits")]),
    rows=st.none() | st.tuples(st.integers(0, 17), st.integers(0, 17)).map(sorted),
    views=st.none() | st.integers(0, 1),
)
def test_any_part_is_a_store_with_the_rows_of_the_whole(
    arrays: tuple[str, ...], rows: list[int] | None, views: int | None, store: Path, tmp_path: Path
) -> None:
    root = tmp_path / "part.kd"
    shutil.rmtree(root, ignore_errors=True)
    selection = Selection.parse(
        arrays, f"{rows[0]}-{rows[1]}" if rows else None, None if views is None else f"0-{views}"
    )
    pulled = pull(store, root, selection)  # from a folder: the server takes part in the other tests
    report = verify(root, deep=True)
    assert report.findings == ()
    assert report.notes == ()
    whole, part = open_store(store), open_store(root)
    first, stop = (rows[0] // 4 * 4, min(rows[1] // 4 * 4 + 4, 18)) if rows else (0, 18)
    assert len(part) == stop - first
    assert part.manifest.num_views == (2 if views is None else views + 1)
    assert {array.name for array in part.manifest.arrays} == set(arrays or ("logits", "ranks"))
    for view in range(part.manifest.num_views):
        there = whole.read(np.arange(first, stop), arrays=arrays or ("logits", "ranks"), view=view)
        here = part.read(np.arange(len(part)), arrays=arrays or ("logits", "ranks"), view=view)
        assert all(np.array_equal(here[name], there[name]) for name in here)
    assert part.samples(["sample_id"]).equals(whole.samples(["sample_id"]).slice(first, stop - first))
    assert [one.row + first for one in part.receipt(0).inputs] == [one.row for one in whole.receipt(first // 4).inputs]
    assert (part.manifest.accuracy is None) == (len(part) < 18), "it was measured over all rows"
    is_all = (len(part), part.manifest.num_views, len(part.manifest.arrays)) == (18, 2, 2)
    if is_all:
        assert files_of(root) == files_of(store)
        assert part.manifest.parents == ()
    else:
        (parent,) = part.manifest.parents
        assert (parent.store_id, parent.receipts) == (whole.manifest.store_id, whole.manifest.receipts)
        assert part.manifest.store_id != whole.manifest.store_id
    assert pulled.store_id == part.manifest.store_id
    assert pull(store, root, selection).finished_before


@pytest.mark.parametrize(
    ("selection", "error", "says"),
    [
        ({"arrays": ["rank"]}, UsageError, "Did you mean 'ranks'"),
        ({"rows": "7-3"}, UsageError, "A-B"),
        ({"rows": "all"}, UsageError, "A-B"),
        ({"rows": "10-18"}, UsageError, "18 rows, from 0"),
        ({"views": "0-2"}, UsageError, "2 views, from 0"),
        ({"views": "1"}, UsageError, "begin with view 0"),
    ],
)
def test_what_the_store_has_not_is_refused(
    selection: dict[str, Any], error: type[Exception], says: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        pull(store, tmp_path / "a.kd", Selection.parse(**selection))
    assert not (tmp_path / "a.kd").exists()


def test_an_array_that_the_store_has_not(write_store: Callable[..., Any], tmp_path: Path) -> None:
    write_store(tmp_path / "a.kd", 8, 5, 4, arrays=("ranks",))
    with pytest.raises(MissingArrayError, match="no 'logits', only ranks"):
        pull(tmp_path / "a.kd", tmp_path / "b.kd", Selection.parse(["logits"]))


@pytest.mark.parametrize("selection", [Selection(), Selection.parse(rows="5-13")], ids=["whole", "part"])
def test_a_pull_that_is_interrupted_leaves_no_store_and_goes_on(
    selection: Selection, store: Path, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = [0], RemoteObjects.read

    def breaking(self: RemoteObjects, path: str, *, limit: int) -> memoryview | None:
        if path.startswith("payload.zarr/logits/c"):
            reads[0] += 1
            if reads[0] == 5:
                raise KeyboardInterrupt
        return read(self, path, limit=limit)

    root = tmp_path / "a.kd"
    monkeypatch.setattr(RemoteObjects, "read", breaking)
    with pytest.raises(KeyboardInterrupt):
        pull(pushed, root, selection)
    assert (root / MARK).exists()
    assert not (root / "manifest.json").exists()
    for another in (Selection.parse(["logits"]), Selection.parse(views="0")):
        with pytest.raises(MismatchError, match="Another pull was begun"):
            pull(pushed, root, another)
    done = pull(pushed, root, selection)
    assert 0 < done.bytes_fetched < done.bytes
    assert verify(root, deep=True).findings == ()
    if selection == Selection():
        assert files_of(root) == files_of(store)


def test_a_view_of_another_store_is_found_by_every_way_of_reading(
    write_store: Callable[..., Any], store: Path, pushed: str, tmp_path: Path
) -> None:
    """Chunks and receipts that fit each other: only all receipts together tell."""
    write_store(tmp_path / "other.kd", 18, 5, 4, num_views=2, seed=1)
    other, objects = open_store(tmp_path / "other.kd"), open_objects(Location.parse(pushed))
    for chunk in range(other.manifest.grid.chunks_per_view):
        for name in (*(record.path for record in other.receipt(chunk).files), receipt_file(chunk)):
            objects.replace(name, (other.path / name).read_bytes())
    parts = [Selection(), Selection.parse(views="0"), Selection.parse(["logits"]), Selection.parse(rows="5-13")]
    for number, selection in enumerate(parts):
        with pytest.raises(CorruptStoreError, match="receipts at"):
            pull(pushed, tmp_path / f"{number}.kd", selection)
        assert not (tmp_path / f"{number}.kd" / "manifest.json").exists()
    with pytest.raises(CorruptStoreError, match="receipts at"):
        open_store(pushed, cache=tmp_path / "cache").read(np.arange(18), arrays=("logits",))


def test_files_that_no_store_has_are_not_fetched(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "a.kd")
    (tmp_path / "a.kd" / "setup.py").write_text("print('hello')")
    manifest = Manifest.read(tmp_path / "a.kd")
    files = (*manifest.files, record_of("setup.py", b"print('hello')"))
    dataclasses.replace(manifest, files=files).write(tmp_path / "a.kd")
    with pytest.raises(CorruptStoreError, match="does not list the files that a store has"):
        pull(tmp_path / "a.kd", tmp_path / "b.kd")
    assert not (tmp_path / "b.kd").exists()


def test_a_folder_that_holds_something_else_is_left_alone(
    write_store: Callable[..., Any], store: Path, pushed: str, tmp_path: Path
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    (tmp_path / "foreign" / ".notes.tmp").write_text("mine, and old")
    os.utime(tmp_path / "foreign" / ".notes.tmp", (0, 0))
    write_store(tmp_path / "other.kd", 18, 5, 4, num_views=2, seed=1)
    before = files_of(tmp_path)
    with pytest.raises(RefusedError, match="not a kdpipe store"):
        pull(pushed, tmp_path / "foreign")
    with pytest.raises(MismatchError, match="holds another store"):
        pull(pushed, tmp_path / "other.kd")
    with pytest.raises(MismatchError, match="another part"):
        pull(pushed, tmp_path / "other.kd", Selection.parse(["ranks"]))
    assert files_of(tmp_path) == before


def test_a_damaged_store_is_mended_by_repair_and_the_same_pull(store: Path, pushed: str, tmp_path: Path) -> None:
    root = tmp_path / "a.kd"
    pull(pushed, root)
    (root / array_file("logits", 0, 1)).write_bytes(b"")
    assert repair(root).changed
    pulled = pull(pushed, root)
    assert 0 < pulled.bytes_fetched < pulled.bytes
    assert verify(root, deep=True).whole


def test_a_store_on_the_web_can_be_pulled(server: SeaweedServer, store: Path, pushed: str, tmp_path: Path) -> None:
    pull(pushed.replace("s3:/", server.files), tmp_path / "a.kd")
    assert files_of(tmp_path / "a.kd") == files_of(store)


@pytest.mark.parametrize("what", ["nothing", "writing", "newer", "damaged"])
def test_what_is_no_finished_store_is_not_pulled(
    what: str, content: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    place = tmp_path / "there.kd"
    if what == "writing":
        content(18, 5, 4).write(place, [0])
    elif what != "nothing":
        shutil.copytree(store, place)
        text = (place / "manifest.json").read_text()
        changes = {"newer": ('"1.0"', '"2.0"'), "damaged": ('"resnet50"', '"other"')}[what]
        (place / "manifest.json").write_text(text.replace(*changes).replace("resnet50", "resnet51"))
    error = {"nothing": CorruptStoreError, "damaged": CorruptStoreError}.get(what, RefusedError)
    with pytest.raises(error):
        pull(place, tmp_path / "a.kd")
    assert not (tmp_path / "a.kd").exists()
