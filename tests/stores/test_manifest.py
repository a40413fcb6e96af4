"""The manifest and the receipts: what is written is read; whatever is altered is refused, and in one way."""

import contextlib
import hashlib
import json

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kdpipe.stores import Accuracy, ArrayInfo, CorruptStoreError, Manifest, Receipt, RefusedError, UsageError
from kdpipe.stores.files import FileRecord, checksum
from kdpipe.stores.layout import MANIFEST, Grid, receipt_file
from kdpipe.stores.manifest import InputDigest, differences, fingerprint, manifest_schema, replace

GRID = Grid(num_samples=10, num_views=2, chunk_rows=4)
RECORD = FileRecord(path="payload.zarr/logits/c/1/2/0", bytes=40, checksum=checksum(b""))
RECEIPT = Receipt(chunk=5, view=1, start=8, stop=10, files=(RECORD,), inputs=(InputDigest(row=8, digest="blake2b:0f"),))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def signed(body: dict) -> bytes:
    """A manifest or receipt with any content, whose checksum is right."""
    body = {name: value for name, value in body.items() if name != "checksum"}
    return json.dumps(body | {"checksum": checksum(msgspec.json.encode(body, order="deterministic"))}).encode()


def read_manifest(folder, data: bytes) -> Manifest:
    (folder / MANIFEST).write_bytes(data)
    return Manifest.read(folder)


def read_receipt(folder, data: bytes, chunk: int = 5) -> Receipt:
    (folder / "receipts").mkdir(exist_ok=True)
    (folder / receipt_file(chunk)).write_bytes(data)
    return Receipt.read(folder, GRID, chunk)


@pytest.fixture(scope="module")
def manifest(content) -> Manifest:
    return replace(
        content(preprocessing={"mean": [0.5, 1.0], "nested": {"deep": [None, True, "ü"]}}).manifest,
        files=(RECORD,),
        owner="vision team",
        accuracy=Accuracy(overall=0.75, balanced=0.5),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("manifests")


def test_a_manifest_is_read_as_it_was_written(tmp_path, manifest):
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


@given(preprocessing=st.dictionaries(st.text(), JSON, max_size=4))
def test_any_preprocessing_is_read_as_it_was_written(folder, content, preprocessing):
    manifest = content(preprocessing=preprocessing).manifest
    manifest.write(folder)
    found = Manifest.read(folder)
    assert found == manifest
    assert differences(found, manifest) == []


def test_a_receipt_is_read_as_it_was_written(tmp_path):
    RECEIPT.write(tmp_path)
    assert Receipt.read(tmp_path, GRID, 5) == RECEIPT


@given(data=st.data())
def test_one_altered_byte_is_refused_or_changes_nothing(folder, manifest, data):
    """White space may differ: it is no content. Only the version's own digit may be taken for a newer version."""
    for document, read, original in (
        (manifest.to_json(), read_manifest, manifest),
        (RECEIPT.to_json(), read_receipt, RECEIPT),
    ):
        place = data.draw(st.integers(0, len(document) - 1))
        byte = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b' "{}[],:.09\\x')))
        altered = document[:place] + bytes([byte]) + document[place + 1 :]
        refusal = None
        try:
            assert read(folder, altered) == original
        except RefusedError as error:
            refusal = error
        if refusal is None:
            assert json.loads(altered) == json.loads(document)
        else:
            assert isinstance(refusal, CorruptStoreError) or "Upgrade" in str(refusal)
            assert str(folder) in str(refusal)


@given(data=st.data())
def test_a_cut_document_is_refused(folder, manifest, data):
    for document, read in ((manifest.to_json(), read_manifest), (RECEIPT.to_json(), read_receipt)):
        with pytest.raises(CorruptStoreError):
            read(folder, document[: data.draw(st.integers(0, len(document) - 3))])


@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"\xff\xfe")
@example(b'{"format_version": "\xf0\x9d\x9f\xa1.0"}')
@example(b'{"format_version": ' + b"9" * 5000 + b"}")
@example(b'{"format_version": "' + b"9" * 5000 + b'"}')
@example(b'{"format_version": "1.0", "checksum": {}, "x": "\\ud800"}')
def test_no_bytes_do_worse_than_be_refused(folder, data):
    with pytest.raises(RefusedError):
        read_manifest(folder, data)
    with pytest.raises(CorruptStoreError):
        read_receipt(folder, data)


@given(data=st.data())
def test_any_field_of_any_value_is_valid_or_refused(folder, manifest, data):
    """An attacker gets the checksum right."""
    for original, read in ((manifest, read_manifest), (RECEIPT, read_receipt)):
        body = json.loads(original.to_json())
        name = data.draw(st.sampled_from(sorted(body)))
        body[name] = data.draw(JSON)
        with contextlib.suppress(RefusedError):
            read(folder, signed(body))


@pytest.mark.parametrize("depth", [100, 500, 950, 1000, 100_000])
@pytest.mark.parametrize("field", ["format_version", "preprocessing", "unknown"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deeply_nested_json_is_refused(tmp_path, depth, field, opening, closing):
    nested = f'{{"{field}": {opening * depth}1{closing * depth}}}'.encode()
    with pytest.raises(CorruptStoreError):
        read_manifest(tmp_path, nested)
    with pytest.raises(CorruptStoreError):
        read_receipt(tmp_path, nested)


def test_a_huge_file_is_refused_unread(tmp_path):
    for file, read in (
        (tmp_path / MANIFEST, lambda: Manifest.read(tmp_path)),
        (tmp_path / receipt_file(5), lambda: Receipt.read(tmp_path, GRID, 5)),
    ):
        file.parent.mkdir(exist_ok=True)
        with file.open("wb") as sparse:
            sparse.truncate(2**40)
        with pytest.raises(CorruptStoreError, match="refused unread"):
            read()


@pytest.mark.parametrize("version", ["2.0", "10.3", "99999999999999999999.1"])
def test_a_newer_major_version_says_upgrade(tmp_path, manifest, version):
    body = json.loads(manifest.to_json()) | {"format_version": version, "arrays": "something new"}
    with pytest.raises(RefusedError, match=r"reads up to 1\.0\. Upgrade: pip install") as caught:
        read_manifest(tmp_path, json.dumps(body).encode())
    assert not isinstance(caught.value, CorruptStoreError)


def test_a_newer_minor_version_may_add_fields(tmp_path, manifest):
    body = json.loads(manifest.to_json()) | {"format_version": "1.7", "colour": {"new": [1]}}
    body["dataset"]["origin"] = "new too"
    body["arrays"][0]["codec"] = "none"
    found = read_manifest(tmp_path, signed(body))
    assert found.format_version == "1.7"
    assert differences(found, manifest) == []
    extra = json.loads(RECEIPT.to_json()) | {"seconds": 1.5}
    assert read_receipt(tmp_path, signed(extra)) == RECEIPT


@pytest.mark.parametrize(
    "change",
    [
        {"num_samples": 2**48 + 1},
        {"num_samples": 2**48, "chunk_rows": 1},
        {"num_samples": 2**100},
        {"num_samples": 0},
        {"num_samples": 10.5},
        {"num_samples": "10"},
        {"num_views": 10**9},
        {"num_classes": 1},
        {"num_classes": 65537},
        {"num_classes": 6},
        {"chunk_rows": 0},
        {"chunk_rows": -4},
        {"state": "finished"},
        {"note": "x" * 4097},
        {"arrays": []},
        {"arrays": [{"name": "logits", "dtype": "float16", "width": 5}] * 2},
        {"arrays": [{"name": "logits", "dtype": "float16", "width": 4}]},
        {"arrays": [{"name": "logits", "dtype": "uint8", "width": 5}]},
        {"arrays": [{"name": "ranks", "dtype": "float16", "width": 5}]},
        {"arrays": [{"name": "ranks", "dtype": "uint8", "width": 6}]},
        {"arrays": [{"name": "../../etc", "dtype": "uint8", "width": 5}]},
        {"arrays": [{"name": "logits", "dtype": "object", "width": 5}]},
        {"files": [{"path": "../x", "bytes": 1, "checksum": checksum(b"")}]},
        {"files": [{"path": "/etc/passwd", "bytes": 1, "checksum": checksum(b"")}]},
        {"files": [{"path": "x", "bytes": 1, "checksum": checksum(b"")}] * 65},
        {"accuracy": {"overall": 1.5, "balanced": 0.5}},
        {"receipts": "sha1:00"},
        {"teacher": None},
        {"preprocessing": []},
    ],
    ids=lambda change: " ".join(f"{name}={str(value)[:40]}" for name, value in change.items()),
)
def test_impossible_manifests_are_refused(tmp_path, manifest, change):
    with pytest.raises(CorruptStoreError, match="is not a valid manifest"):
        read_manifest(tmp_path, signed(json.loads(manifest.to_json()) | change))


@pytest.mark.parametrize("name", sorted(json.loads(RECEIPT.to_json()).keys() - {"checksum", "inputs"}))
def test_a_receipt_needs_its_fields(tmp_path, name):
    body = json.loads(RECEIPT.to_json())
    del body[name]
    with pytest.raises(CorruptStoreError, match="is not a valid receipt"):
        read_receipt(tmp_path, signed(body))


@pytest.mark.parametrize("change", [{"chunk": 4}, {"view": 0}, {"start": 4}, {"stop": 12}])
def test_the_receipt_of_another_chunk_is_refused(tmp_path, change):
    body = json.loads(RECEIPT.to_json()) | change
    with pytest.raises(CorruptStoreError, match=f"receipt of chunk {body['chunk']}, not of chunk 5"):
        read_receipt(tmp_path, signed(body))
    with pytest.raises(CorruptStoreError, match="receipt of chunk 5, not of chunk 2"):
        read_receipt(tmp_path, RECEIPT.to_json(), chunk=2)


def test_a_receipt_that_no_reader_would_accept_is_not_written(tmp_path):
    inputs = tuple(InputDigest(row=row, digest="blake2b:0f") for row in range(65))
    with pytest.raises(UsageError, match="receipt cannot be written"):
        Receipt(chunk=0, view=0, start=0, stop=4, files=(), inputs=inputs).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_real_manifests_follow_the_published_schema(tmp_path, make_store, manifest):
    schema = manifest_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    make_store(tmp_path / "a.kd")
    finished = json.loads((tmp_path / "a.kd" / MANIFEST).read_bytes())
    for body in (finished, json.loads(manifest.to_json())):
        jsonschema.validate(body, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(finished | {"num_classes": 1}, schema)


def test_the_document_is_readable_and_ends_with_its_checksum(manifest):
    document = manifest.to_json()
    body = json.loads(document)
    assert document == json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"
    assert list(body)[-1] == "checksum"
    assert signed(body) == json.dumps(body).encode(), "the checksum covers all other fields"


IRRELEVANT = [
    {"created": "2030-01-01"}, {"finished": "2030-01-01"}, {"owner": "me"}, {"note": "n"}, {"licence": "CC0"},
    {"extractor": "me"}, {"device": "cuda"}, {"batch_size": 7}, {"kdpipe_version": "9"}, {"state": "complete"},
    {"format_version": "1.9"}, {"files": ()}, {"accuracy": None}, {"receipts": checksum(b"x")},
]  # fmt: skip
LOGITS = ArrayInfo(name="logits", dtype="float32", width=5)
RELEVANT = [
    {"num_samples": 11}, {"num_classes": 6, "arrays": (ArrayInfo(name="ranks", dtype="uint8", width=5),)},
    {"num_views": 2}, {"chunk_rows": 5}, {"arrays": (LOGITS,)}, {"preprocessing": {"mean": [0.5, 1.5]}},
    {"group_rule": "g"}, {"order": "shuffled"}, {"precision": "bf16"},
]  # fmt: skip


@pytest.mark.parametrize("change", IRRELEVANT, ids=lambda change: next(iter(change)))
def test_the_id_is_the_same_whoever_wrote_it_and_when(manifest, change):
    assert replace(manifest, **change).store_id == manifest.store_id
    assert differences(manifest, replace(manifest, **change)) == []


@pytest.mark.parametrize("change", RELEVANT, ids=lambda change: next(iter(change)))
def test_the_id_is_another_where_a_setting_is(manifest, change):
    assert replace(manifest, **change).store_id != manifest.store_id
    assert set(differences(manifest, replace(manifest, **change))) == set(change)


@pytest.mark.parametrize(
    ("part", "field", "setting"),
    [
        ("dataset", "sample_ids", "sample_ids"),
        ("dataset", "labels", "labels"),
        ("dataset", "classes", "classes"),
        ("teacher", "checksum", "teacher"),
    ],
)
def test_other_data_or_another_teacher_is_another_store(manifest, part, field, setting):
    info = msgspec.convert(msgspec.to_builtins(getattr(manifest, part)) | {field: "x"}, type(getattr(manifest, part)))
    other = replace(manifest, **{part: info})
    assert other.store_id != manifest.store_id
    assert differences(manifest, other) == [setting]


def test_only_how_a_teacher_was_named_makes_no_other_store(manifest):
    info = msgspec.convert(msgspec.to_builtins(manifest.teacher) | {"spec": "python:mine"}, type(manifest.teacher))
    assert replace(manifest, teacher=info).store_id == manifest.store_id


def test_tuples_and_lists_are_the_same_setting(content):
    """A manifest in memory has tuples where one read from its file has lists."""
    one = content(preprocessing={"size": (224, 224)}).manifest
    other = content(preprocessing={"size": [224, 224]}).manifest
    assert differences(one, other) == []
    assert one.store_id == other.store_id


def test_the_id_of_a_known_manifest_never_changes(content):
    assert content(10, 5, 4).manifest.store_id == "bddfaa5be21ddc00"


def test_fingerprints_depend_on_order_and_boundaries():
    lists = [["a", "b"], ["b", "a"], ["ab"], ["ab", ""], ["", "ab"], [], [""], ["a", "b", ""]]
    assert len({fingerprint(values) for values in lists}) == len(lists)
    expected = hashlib.sha256(b"\1" + bytes(7) + b"a" + b"\2" + bytes(7) + "ü".encode()).hexdigest()
    assert fingerprint(["a", "ü"]) == f"sha256:{expected}"


def test_arrays_are_found_by_name(manifest):
    assert manifest.array("ranks").row_bytes == 5
    assert manifest.array("logits").row_bytes == 10
    assert manifest.array("embeddings") is None
    assert manifest.grid == Grid(10, 1, 4)
