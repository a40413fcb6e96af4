"""The Parquet payload: the same store as with Zarr, read by others without kdpipe, damaged, repaired."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError, Manifest, MismatchError, UsageError, open_store
from kdpipe.stores.checks.repair import repair
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.manifest import replace
from kdpipe.stores.payload.kept_rows import KeptRows
from kdpipe.stores.payload.layout import payload_layout, payload_store_id
from kdpipe.stores.payload.parquet_columns import Columns, map_column, read_column

from ..checks.test_verify import real_content
from ..conftest import make_content

SPELLINGS = ("parquet", "parquet-lists")
CODECS = [None, "float32", "float16+zstd", "int8", "topk:3", "factorised:3", "factorised:3+zstd"]
SHAPE = (11, 7, 4)  # 3 chunks, the last of them partial


def in_format(content, spelling):
    return dataclasses.replace(content, manifest=replace(content.manifest, payload_format=spelling))


def made(codec=None, spelling="parquet", shape=SHAPE, **fields):
    fields = {"num_views": 2, **fields}
    if codec == "float32":
        return in_format(real_content(*shape, dtype="float32", **fields), spelling)
    return in_format(real_content(*shape, codec=codec, **fields), spelling)


def flip(path: Path, place: int = -400) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_is_the_same_store_as_with_zarr(tmp_path, codec, spelling):
    content = made(codec, spelling)
    content.write(tmp_path / "p.kd").finish()
    in_format(content, "zarr").write(tmp_path / "z.kd").finish()
    assert not verify(tmp_path / "p.kd").findings
    assert not verify(tmp_path / "p.kd", deep=True).findings
    parquet, zarr = open_store(tmp_path / "p.kd", verify=True), open_store(tmp_path / "z.kd")
    rows = np.array([10, 0, 3, 3, 7, 4])
    names = [array.name for array in content.manifest.arrays]
    if codec is not None and not codec.startswith("topk"):
        names.append("logits")
    for view in (1, 0):
        found, expected = (store.read(rows, arrays=names, view=view) for store in (parquet, zarr))
        for name in names:
            assert found[name].dtype == expected[name].dtype
            assert found[name].tobytes() == expected[name].tobytes(), name
    for order in ("sequential", "chunks", "random"):
        pairs = zip(*(store.batches(4, arrays=names, order=order, seed=3) for store in (parquet, zarr)), strict=True)
        for ours, theirs in pairs:
            for name in ("row", *names):
                assert ours[name].tobytes() == theirs[name].tobytes()
    copy = pickle.loads(pickle.dumps(parquet))
    np.testing.assert_array_equal(copy.read([5], arrays=names)[names[0]], zarr.read([5], arrays=names)[names[0]])


def test_the_files_of_a_store_and_only_they_belong_to_it(tmp_path):
    made("factorised:3").write(tmp_path / "a.kd").finish()
    files = {str(path.relative_to(tmp_path / "a.kd")) for path in (tmp_path / "a.kd/payload").rglob("*.*")}
    chunks = {f"payload/{chunk:05d}.parquet" for chunk in range(6)}
    constants = {f"payload/_constants/{name}.parquet" for name in ("classifier_weight", "classifier_bias")}
    assert files == {*chunks, *constants, "payload/_store.json"}
    strangers = ("payload/00006.parquet", "payload/0.parquet", "payload/notes.txt", "payload.zarr/zarr.json")
    for name in strangers:
        (tmp_path / "a.kd" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a.kd" / name).write_bytes(b"x")
    notes = verify(tmp_path / "a.kd").notes
    assert {note.split()[0] for note in notes} == set(strangers)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_rows=st.integers(1, 40),
    width=st.integers(1, 9),
    dtype=st.sampled_from(["float16", "float32", "uint8", "uint16", "uint32"]),
    lists=st.booleans(),
    compressed=st.booleans(),
    data=st.data(),
)
def test_any_bytes_come_back_mapped_or_decoded(tmp_path, num_rows, width, dtype, lists, compressed, data):
    size = num_rows * width * np.dtype(dtype).itemsize
    values = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype).reshape(num_rows, width)
    columns = Columns(arrays={"a": (np.dtype(dtype), width)}, lists=lists, compressed=compressed, has_keys=False)
    (tmp_path / "a.parquet").write_bytes(columns.encode({"a": values}))
    assert columns.encode({"a": np.asfortranarray(values)}) == columns.encode({"a": values})
    found = read_column(tmp_path / "a.parquet", columns, "a", num_rows)
    assert found.tobytes() == values.tobytes()
    if not lists:
        mapped = map_column(tmp_path / "a.parquet", columns, "a", num_rows)
        assert (mapped is None) == compressed
        assert mapped is None or (mapped.tobytes() == values.tobytes() and mapped.dtype == dtype)


def test_chunks_that_arrow_writes_in_pieces_are_decoded(tmp_path):
    content = in_format(make_content(30_000, 2, 25_000), "parquet")
    content.write(tmp_path / "a.kd").finish()
    store, rows = open_store(tmp_path / "a.kd"), np.random.default_rng(0).permutation(30_000)
    np.testing.assert_array_equal(store.read(rows)["logits"], content.stored("logits")[rows])
    assert not [finding for finding in verify(tmp_path / "a.kd", deep=True).errors if finding.chunk is not None]


def test_bytes_are_mapped_and_the_chunks_kept_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("kdpipe.stores.payload.parquet_layout._KEPT_MAPPED", 3)
    monkeypatch.setattr("kdpipe.stores.payload.kept_rows._KEPT_BYTES", 2 * 4 * 14)
    for spelling, kept in (("parquet", 3), ("parquet-lists", 2)):
        content = in_format(make_content(40, 7, 4), spelling)
        content.write(tmp_path / spelling).finish()
        store = open_store(tmp_path / spelling)
        np.testing.assert_array_equal(store.read(np.arange(40))["logits"], content.stored("logits"))
        (rows,) = store._mapped.values()
        assert isinstance(rows, KeptRows)
        assert len(rows._kept) == kept
        assert all(isinstance(block.base, np.memmap) for block in rows._kept.values()) == (spelling == "parquet")
        assert rows.mappings == (3 if spelling == "parquet" else 0)


# --- others read it


@pytest.fixture(scope="module", params=SPELLINGS)
def written(request, tmp_path_factory):
    content = made(spelling=request.param)
    root = tmp_path_factory.mktemp("parquet") / "a.kd"
    content.write(root).finish()
    return root, content


def numbers(values, content, name):
    """Rows of a column as someone without kdpipe sees them: bytes, or lists."""
    info = content.manifest.array(name)
    if isinstance(values[0], bytes):
        return np.frombuffer(b"".join(values), np.dtype(info.dtype).newbyteorder("<")).reshape(-1, info.width)
    return np.array([list(row) for row in values], info.dtype)


def test_pyarrow_reads_it(written):
    root, content = written
    table = ds.dataset(root / "payload", format="parquet").to_table()  # a folder: names with "_" are skipped
    assert table["row"].to_pylist() == [*range(11), *range(11)]
    assert table["view"].to_pylist() == [0] * 11 + [1] * 11
    lists = content.manifest.payload_format == "parquet-lists"
    kinds = (pa.float16(), pa.uint8()) if lists else (pa.binary(14), pa.binary(7))
    for name, kind in zip(("logits", "ranks"), kinds, strict=True):
        found = table.schema.field(name).type
        assert ((found.value_type, found.list_size) if lists else found) == ((kind, 7) if lists else kind)
        for view in range(2):
            rows = table.filter(pc.field("view") == view)[name].to_pylist()
            np.testing.assert_array_equal(numbers(rows, content, name), content.stored(name, view))


def test_polars_reads_it(written):
    root, content = written
    frame = pl.scan_parquet(root / "payload/*.parquet").filter(pl.col("view") == 1).sort("row").collect()
    if content.manifest.payload_format == "parquet-lists":
        assert frame.schema["logits"] == pl.Array(pl.Float16, 7)
        assert frame.schema["ranks"] == pl.Array(pl.UInt8, 7)
    for name in ("logits", "ranks"):
        np.testing.assert_array_equal(numbers(frame[name].to_list(), content, name), content.stored(name, 1))


def test_duckdb_reads_it_and_joins_the_samples(written):
    root, content = written
    query = f"""
        SELECT sample_id, label, logits, ranks FROM '{root}/payload/*.parquet' JOIN '{root}/samples/*.parquet'
        USING (row) WHERE view = 1 ORDER BY row
    """
    rows = duckdb.connect().execute(query).fetchall()
    assert [row[0] for row in rows] == content.samples["sample_id"].to_pylist()
    for place, name in ((2, "logits"), (3, "ranks")):
        np.testing.assert_array_equal(numbers([row[place] for row in rows], content, name), content.stored(name, 1))


# --- damage


@pytest.mark.parametrize("codec", [None, "int8+zstd"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_damage_is_found_and_repaired(tmp_path, codec, spelling):
    content, root = made(codec, spelling), tmp_path / "a.kd"
    content.write(root).finish()
    before = {chunk: (root / f"payload/{chunk:05d}.parquet").read_bytes() for chunk in range(6)}
    flip(root / "payload/00001.parquet")
    (root / "payload/00004.parquet").write_bytes(before[4][:100])
    (root / "payload/00005.parquet").unlink()
    assert {(f.chunk, f.check) for f in verify(root).findings} == {(4, "size"), (5, "missing")}
    found = {(f.path, f.chunk, f.check) for f in verify(root, deep=True).findings}
    assert found == {
        ("payload/00001.parquet", 1, "checksum"),
        ("payload/00004.parquet", 4, "size"),
        ("payload/00005.parquet", 5, "missing"),
    }
    assert repair(root).chunks == (1, 4, 5)
    content.write(root).finish()
    assert not verify(root, deep=True).findings
    assert {chunk: (root / f"payload/{chunk:05d}.parquet").read_bytes() for chunk in range(6)} == before


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans(), lists=st.booleans())
@example(place=13732, value=128, cut=False, lists=False)  # the name of a column is no text any more
def test_a_damaged_file_is_refused_or_reads_as_numbers(tmp_path, place, value, cut, lists):
    """Without a checksum only its shape protects the reader: never a crash, never rows that are not there."""
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float16)
    columns = Columns(arrays={"a": (np.dtype(np.float16), 6)}, lists=lists, compressed=False, has_keys=False)
    data = bytearray(columns.encode({"a": values}))
    place %= len(data)
    data[place] = value
    (tmp_path / "a.parquet").write_bytes(data[:place] if cut else data)
    for read in (read_column, map_column) if not lists else (read_column,):
        try:
            found = read(tmp_path / "a.parquet", columns, "a", 50)
        except CorruptStoreError:
            continue
        assert found is None or found.shape == (50, 6)


def test_files_of_other_rows_columns_and_lengths_are_refused(tmp_path):
    content, root = made(), tmp_path / "a.kd"
    content.write(root).finish()
    layout, path = payload_layout(content.manifest), root / "payload/00001.parquet"
    info = content.manifest.arrays[0]
    assert layout.reader(root, info, 1)(0, 4).tobytes() == content.stored("logits")[4:8].tobytes()
    for source, message in (("00000", "its 'row' is another"), ("00004", "its 'view' is another")):
        path.write_bytes((root / f"payload/{source}.parquet").read_bytes())
        with pytest.raises(CorruptStoreError, match=message):
            layout.reader(root, info, 1)
    path.write_bytes((root / "payload/00002.parquet").read_bytes())
    with pytest.raises(CorruptStoreError, match="has 3 rows instead of 4"):
        open_store(root).read([5])
    pq.write_table(pq.read_table(root / "payload/00000.parquet").drop_columns("ranks"), path)
    with pytest.raises(CorruptStoreError, match="other columns"):
        open_store(root).read([5])


def test_a_column_that_was_written_in_another_way_still_reads(tmp_path):
    content, root = made(), tmp_path / "a.kd"
    content.write(root).finish()
    for chunk in range(6):
        path = root / f"payload/{chunk:05d}.parquet"
        pq.write_table(pq.read_table(path), path, compression="snappy", use_dictionary=True)
    np.testing.assert_array_equal(open_store(root).read(np.arange(11))["logits"], content.stored("logits"))


# --- the manifest


def test_old_manifests_and_ids_do_not_change_and_a_format_is_a_setting(tmp_path):
    content = real_content(*SHAPE)
    assert "payload_format" not in content.manifest.settings()
    ids = {replace(content.manifest, payload_format=name).store_id for name in ("zarr", *SPELLINGS)}
    assert len(ids) == 3
    in_format(content, "parquet").write(tmp_path / "a.kd").finish()
    with pytest.raises(MismatchError, match="payload-format is parquet there, not set here"):
        content.write(tmp_path / "a.kd")
    manifest = Manifest.read(tmp_path / "a.kd")
    assert manifest.payload_format == "parquet"
    assert payload_store_id(tmp_path / "a.kd") == manifest.store_id
    (tmp_path / "a.kd/manifest.json").unlink()
    content_again = in_format(content, "parquet")
    content_again.write(tmp_path / "a.kd").finish()  # known by the id in its payload, as with Zarr
    assert verify(tmp_path / "a.kd", deep=True).whole


def test_a_chunk_too_large_for_a_page_is_refused(monkeypatch):
    monkeypatch.setattr("kdpipe.stores.payload.parquet_columns._MAX_BYTES", 20)
    columns = Columns(arrays={"a": (np.dtype(np.float16), 3)}, lists=False, compressed=False, has_keys=False)
    with pytest.raises(UsageError, match="24 bytes is too large for Parquet"):
        columns.encode({"a": np.zeros((4, 3))})


def test_views_are_added_without_touching_written_ones(tmp_path):
    augmented: dict[str, Any] = {"augmentation": {"kind": "crop-flip"}}
    one = made(num_views=1, **augmented)
    one.write(tmp_path / "a.kd").finish()
    before = {path: path.read_bytes() for path in (tmp_path / "a.kd/payload").rglob("*.*")}
    two = made(num_views=2, **augmented)
    two.write(tmp_path / "a.kd").finish()
    assert all(path.read_bytes() == data for path, data in before.items())
    assert not verify(tmp_path / "a.kd").errors
    found = open_store(tmp_path / "a.kd").read(np.arange(11), view=1)["logits"]
    np.testing.assert_array_equal(found, two.stored("logits", 1))
