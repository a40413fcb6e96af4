"""Verification: a whole store gives no finding, any damage gives one that names the file, and nothing raises."""

import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError, RefusedError, StoreWriter
from kdpipe.stores.checks.content import labels_fingerprint
from kdpipe.stores.checks.report import MAX_FINDINGS, MAX_NOTES, Report
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.files import checksum
from kdpipe.stores.layout import CLASSES, MANIFEST, RECEIPTS, array_file, receipt_file, samples_file
from kdpipe.stores.manifest import Manifest

from ..conftest import Content, make_content

SHAPE = (11, 5, 4)


def real_content(*args: Any, **settings: Any) -> Content:
    """Content whose fingerprints are those an extraction records."""
    made = make_content(*args, **settings)
    labels = labels_fingerprint(made.samples["label"].to_numpy())
    return make_content(*args, **settings, dataset=dataclasses.replace(made.manifest.dataset, labels=labels))


def paths(report: Report) -> set[str]:
    return {finding.path for finding in report.findings}


def files_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2 views with 3 chunks each, the last of them partial."""
    root = tmp_path_factory.mktemp("whole") / "a.kd"
    real_content(*SHAPE, num_views=2).write(root).finish()
    return root


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "a.kd"))


def each_damage(whole: Path, store: Path, damage: Callable[[bytes], Iterator[bytes | None]]) -> Iterator[str]:
    """Put every damaged version of every file into the store, one at a time; gives the name of the file."""
    for name in files_of(whole):
        original = (whole / name).read_bytes()
        for damaged in damage(original):
            (store / name).unlink() if damaged is None else (store / name).write_bytes(damaged)
            yield name
        (store / name).write_bytes(original)


# --- whole stores


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        (SHAPE, {}),
        (SHAPE, {"num_views": 3}),
        (SHAPE, {"dtype": "float32"}),
        (SHAPE, {"rank_depth": 2}),
        (SHAPE, {"rank_depth": 1}),
        (SHAPE, {"arrays": ("logits",)}),
        (SHAPE, {"arrays": ("ranks",)}),
        ((12, 5, 4), {}),
        ((1, 2, 1), {}),
        ((7, 3, 7), {}),
        ((40, 256, 16), {}),
        ((40, 257, 16), {}),
        ((600, 1500, 256), {"dtype": "float16"}),
    ],
)
def test_a_whole_store_gives_no_findings(tmp_path, shape, changes, deep):
    content = real_content(*shape, **changes)
    content.write(tmp_path / "a.kd").finish()
    seen = []
    report = verify(tmp_path / "a.kd", deep=deep, on_progress=lambda done, total: seen.append((done, total)))
    chunks = content.manifest.grid.num_chunks
    assert (report.findings, report.notes, report.whole) == ((), (), True)
    assert (report.chunks, report.chunks_checked, report.chunks_missing) == (chunks, chunks, 0)
    assert seen == [(chunk + 1, chunks) for chunk in range(chunks)]
    assert report.files_checked == len(files_of(tmp_path / "a.kd"))
    if deep:
        total = sum((tmp_path / "a.kd" / name).stat().st_size for name in files_of(tmp_path / "a.kd"))
        assert report.bytes_read == total
        assert report.rows_checked == content.manifest.num_samples * content.manifest.num_views


# --- damage


def test_deep_names_every_file_with_one_flipped_bit(whole, store):
    def flips(data: bytes) -> Iterator[bytes]:
        for position, bit in itertools.product((0, len(data) // 3, len(data) // 2, len(data) - 1), (0, 5)):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            yield bytes(damaged)

    count = 0
    for name in each_damage(whole, store, flips):
        report = verify(store, deep=True)
        assert paths(report) == {name}
        assert not report.whole
        count += 1
    assert count == 8 * len(files_of(whole))


@pytest.mark.parametrize("deep", [False, True])
def test_truncated_and_deleted_files_are_named(whole, store, deep):
    def cuts(data: bytes) -> Iterator[bytes | None]:
        yield None
        for length in {0, *(2**n for n in range(40) if 2**n < len(data)), len(data) - 1}:
            yield data[:length]
        yield data + b"\0"

    for name in each_damage(whole, store, cuts):
        report = verify(store, deep=deep)
        assert paths(report) == {name}
        # the manifest's last byte is a line feed: without it everything in it is still proven
        assert not report.whole or (name, report.errors) == (MANIFEST, ())


def test_swapped_files_are_named(whole, store):
    names = [name for name in files_of(whole) if not name.endswith("zarr.json")]
    pairs = [
        pair for pair in itertools.combinations(names, 2)
        if (whole / pair[0]).stat().st_size == (whole / pair[1]).stat().st_size
    ]  # fmt: skip
    assert len(pairs) > 30
    for one, other in pairs:
        (store / one).write_bytes((whole / other).read_bytes())
        (store / other).write_bytes((whole / one).read_bytes())
        assert paths(verify(store, deep=True)) == {one, other}
        for name in (one, other):
            shutil.copy(whole / name, store / name)
    assert verify(store, deep=True).whole


@pytest.mark.parametrize("deep", [False, True])
def test_swapped_receipts_are_found_without_reading_the_payload(whole, store, deep):
    shutil.copy(whole / receipt_file(0), store / receipt_file(1))
    (finding,) = verify(store, deep=deep).findings
    assert (finding.path, finding.chunk, finding.check) == (receipt_file(1), 1, "receipt")
    assert "the receipt of chunk 0" in finding.problem


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_is_found(whole, tmp_path_factory, data):
    store = tmp_path_factory.getbasetemp() / "flipped.kd"
    if not store.exists():
        shutil.copytree(whole, store)
    name = data.draw(st.sampled_from(files_of(whole)))
    original = (whole / name).read_bytes()
    damaged = bytearray(original)
    for position in data.draw(st.sets(st.integers(0, len(original) - 1), min_size=1, max_size=3)):
        damaged[position] ^= data.draw(st.integers(1, 255))
    (store / name).write_bytes(damaged)
    try:
        assert paths(verify(store, deep=True)) == {name}
        verify(store)  # never raises
    finally:
        (store / name).write_bytes(original)


@given(
    document=st.recursive(st.none() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c))
)
@settings(max_examples=60, deadline=None)
def test_any_document_in_place_of_one_is_a_finding(whole, tmp_path_factory, document):
    store = tmp_path_factory.getbasetemp() / "documents.kd"
    if not store.exists():
        shutil.copytree(whole, store)
    for name in (MANIFEST, receipt_file(2), "payload.zarr/zarr.json"):
        (store / name).write_bytes(msgspec.json.encode(document))
        assert paths(verify(store, deep=True)) == {name}
        assert not verify(store).whole
        shutil.copy(whole / name, store / name)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_what_is_not_a_file_is_named_and_not_opened(whole, store, kind, deep):
    for name in (MANIFEST, receipt_file(4), array_file("logits", 0, 1), samples_file(2), CLASSES):
        (store / name).unlink()
        if kind == "folder":
            (store / name).mkdir()
        elif kind == "pipe":
            os.mkfifo(store / name)
        else:
            (store / name).symlink_to("nowhere")
        (finding,) = verify(store, deep=deep).findings
        assert finding.path == name
        assert finding.check in ("missing", "manifest", "receipt")
        (store / name).rmdir() if kind == "folder" else (store / name).unlink()
        shutil.copy(whole / name, store / name)


def test_chunk_and_kind_of_damage_are_said(store):
    (store / array_file("ranks", 1, 2)).unlink()
    (store / samples_file(1)).write_bytes(b"")
    found = {finding.path: (finding.chunk, finding.check) for finding in verify(store).findings}
    assert found == {samples_file(1): (1, "size"), array_file("ranks", 1, 2): (5, "missing")}


def test_a_damaged_manifest_is_the_one_finding_and_the_id_is_still_known(store):
    before = Manifest.read(store).store_id
    (store / MANIFEST).write_bytes(b"{")
    report = verify(store, deep=True)
    assert paths(report) == {MANIFEST}
    assert (report.store_id, report.state) == (before, None)
    assert "6 receipts are there" in report.notes[0]


def test_a_newer_version_is_refused_but_a_flipped_version_is_damage(store):
    text = (store / MANIFEST).read_text().replace('"format_version": "1.0"', '"format_version": "2.0"')
    (store / MANIFEST).write_text(text)
    assert paths(verify(store)) == {MANIFEST}
    body = msgspec.json.decode(text)
    del body["checksum"]
    body["checksum"] = checksum(msgspec.json.encode(body, order="deterministic"))
    (store / MANIFEST).write_bytes(msgspec.json.encode(body))
    with pytest.raises(RefusedError, match="Upgrade"):
        verify(store)


def test_a_manifest_written_in_another_way_is_a_warning(store):
    (store / MANIFEST).write_bytes(msgspec.json.encode(msgspec.json.decode((store / MANIFEST).read_bytes())))
    report = verify(store, deep=True)
    assert report.whole
    assert [finding.path for finding in report.warnings] == [MANIFEST]


def test_what_is_no_store(tmp_path):
    for folder, said in ((tmp_path / "nowhere.kd", "not a folder"), (tmp_path, "neither manifest.json nor receipts")):
        with pytest.raises(CorruptStoreError, match=f"{said}.*Is this a kdpipe store"):
            verify(folder)
    (tmp_path / RECEIPTS).mkdir()
    assert paths(verify(tmp_path)) == {MANIFEST}


def test_an_unfinished_store_is_said_and_its_missing_chunks_are_counted(tmp_path):
    content = real_content(*SHAPE, num_views=2)
    content.write(tmp_path / "a.kd", chunks=[0, 4])
    report = verify(tmp_path / "a.kd", deep=True)
    assert [(finding.path, finding.check) for finding in report.findings] == [(MANIFEST, "unfinished")]
    assert "4 of 6 chunks are missing" in report.findings[0].problem
    assert (report.chunks_checked, report.chunks_missing, report.whole) == (2, 4, False)
    (tmp_path / "a.kd" / array_file("logits", 1, 1)).write_bytes(b"")
    assert array_file("logits", 1, 1) in paths(verify(tmp_path / "a.kd"))


def test_strange_files_are_notes_and_what_kdpipe_leaves_is_not(store):
    for name in ("notes.md", "payload.zarr/logits/c/0/9/0", "receipts/00099.json", "samples/0.parquet"):
        (store / name).parent.mkdir(exist_ok=True, parents=True)
        (store / name).write_text("x")
    for name in (
        "locks/00000.json", "quarantine/x/y", "samples/.a~host@1-00000000.tmp", "README.md", "croissant.json",
    ):  # fmt: skip
        (store / name).parent.mkdir(exist_ok=True, parents=True)
        (store / name).write_text("x")
    report = verify(store, deep=True)
    assert report.whole
    named = {note.split()[0] for note in report.notes}
    assert named == {"notes.md", "payload.zarr/logits/c/0/9/0", "receipts/00099.json", "samples/0.parquet"}
    for number in range(2 * MAX_NOTES):
        (store / f"{number}.txt").write_text("")
    assert len(verify(store).notes) == MAX_NOTES + 1


def test_a_manifest_that_claims_millions_of_chunks_is_bounded(tmp_path):
    content = real_content(*SHAPE)
    content.write(tmp_path / "a.kd").finish()
    claimed = dataclasses.replace(
        Manifest.read(tmp_path / "a.kd"), num_samples=2**23, chunk_rows=1, store_id="", receipts="xxh3-128:" + "0" * 32
    )
    claimed.write(tmp_path / "a.kd")
    report = verify(tmp_path / "a.kd", deep=True)
    assert report.stopped
    assert len(report.findings) == MAX_FINDINGS


# --- files that contradict each other, though each is as it was written


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_chunk_of_another_store_is_found(tmp_path, store, deep):
    """Its files fit its receipt; only the checksum over all receipts knows."""
    other = real_content(*SHAPE, num_views=2, seed=1)
    other.write(tmp_path / "other.kd").finish()
    for name in (array_file("logits", 1, 1), array_file("ranks", 1, 1), receipt_file(4)):
        shutil.copy(tmp_path / "other.kd" / name, store / name)
    (finding,) = verify(store, deep=deep).findings
    assert (finding.path, finding.check) == (MANIFEST, "fingerprint")


def test_manifests_that_contradict_themselves_are_found(store):
    good = Manifest.read(store)
    for changed, problem in [
        (dataclasses.replace(good, store_id="0" * 16), "store id"),
        (dataclasses.replace(good, files=good.files[1:]), "does not list the files"),
        (dataclasses.replace(good, receipts=None), "contradict each other"),
        (dataclasses.replace(good, state="writing"), "contradict each other"),
    ]:
        changed.write(store)
        assert any(f.path == MANIFEST and problem in f.problem for f in verify(store).errors), problem


def test_receipts_that_list_other_files_or_impossible_sizes_are_found(store):
    from kdpipe.stores import Receipt

    good = Receipt.read(store, Manifest.read(store).grid, 1)
    for changed in (
        dataclasses.replace(good, files=good.files[1:]),
        dataclasses.replace(good, files=good.files + good.files[:1]),
        dataclasses.replace(good, files=(dataclasses.replace(good.files[0], path="README.md"), *good.files[1:])),
        dataclasses.replace(good, files=(dataclasses.replace(good.files[0], bytes=1), *good.files[1:])),
    ):
        changed.write(store)
        assert paths(verify(store)) == {receipt_file(1)}


def test_zarr_metadata_of_another_shape_is_found_and_another_spelling_is_not(tmp_path, monkeypatch):
    from kdpipe.stores.payload import zarr_layout
    from kdpipe.stores.payload.zarr_files import metadata_documents

    content = real_content(*SHAPE)
    documents = metadata_documents(content.manifest)
    path = "payload.zarr/logits/zarr.json"
    body = msgspec.json.decode(documents[path])

    def made(number: int, changed: dict[str, Any]) -> set[str]:
        with monkeypatch.context() as patch:
            patch.setattr(zarr_layout, "metadata_documents", lambda _: documents | {path: msgspec.json.encode(changed)})
            content.write(tmp_path / f"{number}.kd").finish()
        return paths(verify(tmp_path / f"{number}.kd"))

    assert made(0, {**body, "storage_transformers": []}) == set()
    assert made(1, {key: body[key] for key in sorted(body)}) == set()
    assert made(2, {**body, "shape": [1, 12, 5]}) == {path}
    assert made(3, {**body, "data_type": "float32"}) == {path}


def test_a_table_of_another_schema_is_found_by_its_footer(tmp_path):
    content = real_content(*SHAPE)
    writer = StoreWriter.open(tmp_path / "a.kd", content.manifest, content.classes)
    for chunk in range(3):
        samples = content.samples if chunk != 1 else content.samples.rename_columns(
            ["row", "id", *content.samples.column_names[2:]]
        )  # fmt: skip
        dataclasses.replace(content, samples=samples).write_chunk(writer, chunk)
    writer.finish()
    assert paths(verify(tmp_path / "a.kd")) == {samples_file(1)}
