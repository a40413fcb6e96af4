"""Verification: a whole store gives no finding, any damage gives one that names the file, and nothing raises."""

import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError, RefusedError, StoreWriter
from kdpipe.stores.content import labels_fingerprint, sample_faults
from kdpipe.stores.files import checksum
from kdpipe.stores.layout import CLASSES, MANIFEST, array_file, receipt_file, samples_file
from kdpipe.stores.manifest import GROUP_NAMES, Manifest, fingerprint
from kdpipe.stores.report import MAX_FINDINGS, MAX_NOTES, Report
from kdpipe.stores.verify import verify

from .conftest import Content, make_content

SHAPE = (11, 5, 4)


def real_content(*args: Any, **settings: Any) -> Content:
    """Content whose fingerprints are those an extraction records."""
    made = make_content(*args, **settings)
    labels = labels_fingerprint(made.samples["label"].to_numpy())
    return make_content(*args, **settings, dataset=dataclasses.replace(made.manifest.dataset, labels=labels))


def with_column(content: Content, name: str, change: Callable[[np.ndarray], None]) -> Content:
    """The content with changed values in one column of the samples."""
    values = np.array(content.samples[name].to_pylist())
    change(values)
    place = content.samples.schema.get_field_index(name)
    field = content.samples.schema.field(name)
    return dataclasses.replace(
        content, samples=content.samples.set_column(place, field, pa.array(values.tolist(), field.type))
    )


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


def test_ties_after_rounding_are_no_contradiction(tmp_path):
    content = real_content(*SHAPE)
    logits = 100 + content.logits / 1000  # float16 makes most of them equal
    order = np.argsort(-logits, axis=2, kind="stable")
    top1 = order[0, :, 0]
    made = dataclasses.replace(content, logits=logits, ranks=order)
    made = with_column(made, "teacher_top1", lambda v: v.__setitem__(slice(None), top1))
    labels = content.samples["label"].to_numpy()
    made = with_column(made, "teacher_correct", lambda v: v.__setitem__(slice(None), top1 == labels))
    made.write(tmp_path / "a.kd").finish()
    assert np.mean(np.diff(np.sort(logits.astype(np.float16), axis=2), axis=2) == 0) > 0.5
    report = verify(tmp_path / "a.kd", deep=True)
    assert report.errors == ()


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
    for name in (array_file("logits", 0, 1), samples_file(2), CLASSES):
        (store / name).unlink()
        if kind == "folder":
            (store / name).mkdir()
        elif kind == "pipe":
            os.mkfifo(store / name)
        else:
            (store / name).symlink_to("nowhere")
        assert paths(verify(store, deep=deep)) == {name}
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


def test_no_folder(tmp_path):
    with pytest.raises(CorruptStoreError, match="Is this a kdpipe store"):
        verify(tmp_path / "nowhere.kd")
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
    for name in ("README.md", "payload.zarr/logits/c/0/9/0", "receipts/00099.json", "samples/0.parquet"):
        (store / name).parent.mkdir(exist_ok=True, parents=True)
        (store / name).write_text("x")
    for name in ("locks/00000.json", "quarantine/x/y", "samples/.a~host@1-00000000.tmp"):
        (store / name).parent.mkdir(exist_ok=True, parents=True)
        (store / name).write_text("x")
    report = verify(store, deep=True)
    assert report.whole
    named = {note.split()[0] for note in report.notes}
    assert named == {"README.md", "payload.zarr/logits/c/0/9/0", "receipts/00099.json", "samples/0.parquet"}
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


# --- contradictions in files whose checksums are right


def deep_findings(content: Content, path: Path) -> list[tuple[str, str]]:
    content.write(path).finish()
    return [(finding.path, finding.problem) for finding in verify(path, deep=True).errors]


def set_(place: Any, value: Any) -> Callable[[np.ndarray], None]:
    return lambda values: values.__setitem__(place, value)


@pytest.mark.parametrize(
    ("column", "change", "problem"),
    [
        ("row", set_(5, 6), "the row number is another in 1 row (first: row 5)"),
        ("label", set_(5, 5), "the label is no class"),
        ("label", set_(5, -1), "the label is no class"),
        ("group", set_(5, "tail"), "the group is not that of the label's class"),
        ("teacher_top1", set_(5, 5), "teacher_top1 is no class"),
        ("teacher_correct", lambda v: np.logical_not(v, out=v), "teacher_correct does not say"),
        ("teacher_confidence", set_(5, 1.5), "teacher_confidence is no probability"),
        ("teacher_confidence", set_(5, np.nan), "teacher_confidence is no probability"),
        ("teacher_entropy", set_(5, -1.0), "teacher_entropy is out of range"),
        ("teacher_entropy", set_(5, 1.7), "teacher_entropy is out of range"),
        ("sample_id", set_(9, "images/000001.png"), "the sample id 'images/000001.png' is in several rows: 1, 9"),
    ],
)  # fmt: skip
def test_wrong_samples_are_found(tmp_path, column, change, problem):
    found = deep_findings(with_column(real_content(*SHAPE), column, change), tmp_path / "a.kd")
    assert any(problem in text for _, text in found)
    expected = {samples_file(0), samples_file(2)} if column == "sample_id" else {samples_file(1)}
    assert {path for path, _ in found} >= expected
    if column != "teacher_correct":
        assert {path for path, _ in found} == expected


@pytest.mark.parametrize("arrays", [("logits", "ranks"), ("logits",), ("ranks",)])
def test_a_wrong_top1_is_found_from_whatever_is_stored(tmp_path, arrays):
    content = real_content(*SHAPE, arrays=arrays)
    second, labels = content.ranks[0, 5, 1], content.samples["label"].to_numpy()
    made = with_column(content, "teacher_top1", set_(5, second))
    made = with_column(made, "teacher_correct", set_(5, bool(second == labels[5])))
    found = deep_findings(made, tmp_path / "a.kd")
    assert [path for path, _ in found] == [samples_file(1)]
    assert "(first: row 5)" in found[0][1]


def test_missing_values_are_found(tmp_path):
    """A foreign file may hold them: by its schema, or in spite of it."""
    content = real_content(*SHAPE)
    loose = pa.schema([field.with_nullable(True) for field in content.samples.schema])
    table = pa.table(content.samples.columns, schema=loose)
    labels = pa.array([None if row == 5 else row % 5 for row in range(11)], pa.int32())
    table = table.set_column(2, loose.field("label"), labels)
    dataclasses.replace(content, samples=table).write(tmp_path / "a.kd").finish()
    found = {(finding.path, finding.check) for finding in verify(tmp_path / "a.kd").findings}
    assert found == {(samples_file(block), "schema") for block in range(3)}
    (fault,) = sample_faults(table, range(11), 5, None)
    assert str(fault) == "a value is missing in 1 row (first: row 5)"


def swap_ranks(ranks: np.ndarray) -> None:
    ranks[1, 5, [0, 1]] = ranks[1, 5, [1, 0]]


@pytest.mark.parametrize(
    ("array", "change", "problem"),
    [
        ("logits", set_((1, 5, 2), np.nan), "the logits are not finite in 1 row (first: row 5)"),
        ("logits", set_((1, 5, 2), np.inf), "the logits are not finite in 1 row (first: row 5)"),
        ("ranks", set_((1, 5, 2), 5), "a rank is no class in 1 row (first: row 5)"),
        ("ranks", lambda r: r.__setitem__((1, 5, 2), r[1, 5, 3]), "a class is ranked twice in 1 row (first: row 5)"),
        ("ranks", swap_ranks, "the ranks are not the order of the logits in 1 row (first: row 5)"),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_wrong_payloads_are_found(tmp_path, array, change, problem, dtype):
    content = real_content(*SHAPE, num_views=2, dtype=dtype)
    change(getattr(content, array))
    assert deep_findings(content, tmp_path / "a.kd") == [(array_file(array, 1, 1), problem)]


def test_cut_ranks_that_leave_out_a_better_class_are_found(tmp_path):
    content = real_content(*SHAPE, rank_depth=2)
    content.ranks[0, 5, [1, 2]] = content.ranks[0, 5, [2, 1]]
    assert deep_findings(content, tmp_path / "a.kd") == [
        (array_file("ranks", 0, 1), "the ranks are not the order of the logits in 1 row (first: row 5)")
    ]


def test_rows_that_prefer_no_class_are_a_warning(tmp_path):
    content = real_content(*SHAPE, num_views=2)
    content.logits[1, 5:7] = 3.0
    content.write(tmp_path / "a.kd").finish()
    report = verify(tmp_path / "a.kd", deep=True)
    assert report.whole
    (finding,) = report.warnings
    assert (finding.path, finding.chunk) == (array_file("logits", 1, 1), 4)
    assert "all logits are equal" in finding.problem
    assert "in 2 rows (first: row 5)" in finding.problem


@pytest.mark.parametrize("array", ["logits", "ranks"])
def test_padding_that_is_not_the_fill_value_is_found(tmp_path, array, monkeypatch):
    from kdpipe.stores import payload, writer

    monkeypatch.setattr(
        writer,
        "chunk_bytes",
        lambda info, values, rows: payload.chunk_bytes(
            info, values if info.name != array else np.pad(values, ((0, rows - len(values)), (0, 0))), rows
        ),
    )
    found = deep_findings(real_content(*SHAPE), tmp_path / "a.kd")
    assert found == [(array_file(array, 0, 2), "the padding is not the fill value in 1 row (first: row 11)")]


def test_wrong_class_tables_are_found(tmp_path):
    content = real_content(*SHAPE)
    table = content.classes

    def problems(number: int, column: str, values: list[Any]) -> list[str]:
        place = table.schema.get_field_index(column)
        field = table.schema.field(column)
        made = dataclasses.replace(content, classes=table.set_column(place, field, pa.array(values, field.type)))
        made.write(tmp_path / f"{number}.kd").finish()
        return [
            f"{f.severity} {f.problem}"
            for f in verify(tmp_path / f"{number}.kd", deep=True).findings
            if f.path == CLASSES
        ]

    assert "do not count from 0" in problems(0, "class_id", [0, 1, 2, 4, 3])[0]
    assert "not those whose fingerprint" in problems(1, "name", list("abcde"))[0]
    assert f"groups other than {', '.join(GROUP_NAMES)}" in problems(2, "group", ["head"] * 4 + ["body"])[0]
    assert problems(3, "count", [9] * 5) == ["warning its counts are not those of the labels that the store holds"]


def test_rows_that_are_together_not_what_the_manifest_says(tmp_path):
    content = real_content(*SHAPE)
    renamed = with_column(content, "sample_id", set_(5, "images/other.png"))
    found = deep_findings(renamed, tmp_path / "ids.kd")
    assert [path for path, _ in found] == [MANIFEST]
    assert "the sample ids are not those" in found[0][1]
    dataset = dataclasses.replace(content.manifest.dataset, labels=fingerprint(["other"]))
    manifest = dataclasses.replace(content.manifest, dataset=dataset, store_id="")
    found = deep_findings(dataclasses.replace(content, manifest=manifest), tmp_path / "labels.kd")
    assert [path for path, _ in found] == [MANIFEST]
    assert "the labels are not those" in found[0][1]


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
    from kdpipe.stores import writer
    from kdpipe.stores.payload import metadata_documents

    content = real_content(*SHAPE)
    documents = metadata_documents(content.manifest)
    path = "payload.zarr/logits/zarr.json"
    body = msgspec.json.decode(documents[path])

    def made(number: int, changed: dict[str, Any]) -> set[str]:
        with monkeypatch.context() as patch:
            patch.setattr(writer, "metadata_documents", lambda _: documents | {path: msgspec.json.encode(changed)})
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
