"""Reading: what was written comes back, by kdpipe and by plain zarr, xarray and pyarrow, in any process."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kdpipe
import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import (
    CorruptStoreError,
    MissingArrayError,
    RefusedError,
    UsageError,
    epoch_order,
    open_store,
    reader,
)
from kdpipe.stores.layout import array_file, samples_file

# 8 rows of 256 float16 classes are one page: chunks that can be mapped side by side; 5 columns never are
SHAPES = st.one_of(
    st.tuples(st.integers(1, 60), st.just(256), st.sampled_from([8, 16])),
    st.tuples(st.integers(1, 30), st.sampled_from([300, 257]), st.integers(1, 12)),
    st.tuples(st.integers(1, 60), st.integers(2, 9), st.integers(1, 70)),
)


@given(
    shape=SHAPES,
    dtype=st.sampled_from(["float16", "float32"]),
    num_views=st.integers(1, 3),
    order=st.permutations(["logits", "ranks"]),
    data=st.data(),
)
def test_any_rows_of_any_store_are_what_was_written(tmp_path_factory, make_store, shape, dtype, num_views, order, data):
    num_samples, num_classes, _ = shape
    path = tmp_path_factory.mktemp("store") / "a.kd"
    depth = data.draw(st.integers(1, num_classes))
    made = make_store(path, *shape, dtype=dtype, num_views=num_views, arrays=order, rank_depth=depth)
    store = pickle.loads(pickle.dumps(open_store(path)))
    rows = np.array(data.draw(st.lists(st.integers(0, num_samples - 1), max_size=20)), np.int64)
    view = data.draw(st.integers(0, num_views - 1))
    buffers = {"logits": np.empty((len(rows), num_classes), dtype)} if data.draw(st.booleans()) else None

    batch = store.read(rows, arrays=("logits", "ranks"), view=view, out=buffers)

    assert list(batch) == ["logits", "ranks"]
    assert batch["logits"].dtype == dtype
    assert batch["ranks"].dtype == ("uint8" if num_classes <= 256 else "uint16")
    for name, values in batch.items():
        np.testing.assert_array_equal(values, made.stored(name, view)[rows])
    assert buffers is None or batch["logits"] is buffers["logits"]
    assert len(store) == num_samples


@given(shape=SHAPES, batch_size=st.integers(1, 70), drop_last=st.booleans(), data=st.data())
@pytest.mark.parametrize("order", ["random", "chunks", "sequential"])
def test_an_epoch_streams_every_row_once_in_its_order(
    tmp_path_factory, make_store, order, shape, batch_size, drop_last, data
):
    path = tmp_path_factory.mktemp("store") / "a.kd"
    made = make_store(path, *shape, num_views=2)
    epoch, view = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 1))
    stream = open_store(path, verify=data.draw(st.booleans())).batches(
        batch_size, arrays=("ranks", "logits"), view=view, order=order, seed=1, epoch=epoch, drop_last=drop_last
    )
    rows = []
    for batch in stream:
        assert list(batch) == ["row", "ranks", "logits"]
        for name in ("ranks", "logits"):
            np.testing.assert_array_equal(batch[name], made.stored(name, view)[batch["row"]])
        rows += batch["row"].tolist()
    expected = epoch_order(range(shape[0]), shape[2], order=order, seed=1, epoch=epoch).tolist()
    assert rows == (expected[: shape[0] // batch_size * batch_size] if drop_last else expected)


def test_streaming_refuses_what_reading_refuses(tmp_path, make_store):
    make_store(tmp_path / "a.kd", arrays=("logits",))
    store = open_store(tmp_path / "a.kd")
    for wrong, error in (
        ({"arrays": "ranks"}, MissingArrayError),
        ({"view": 1}, UsageError),
        ({"order": "shuffled"}, UsageError),
        ({"batch_size": 0}, UsageError),
    ):
        with pytest.raises(error):
            next(store.batches(**{"batch_size": 2, **wrong}))


def test_tables_are_those_written(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 10, 5, 4)
    store = open_store(tmp_path / "a.kd")
    assert store.samples().equals(made.samples)
    assert store.samples(["label", "sample_id"]).column_names == ["label", "sample_id"]
    assert store.samples(blocks=[1]).equals(made.samples.slice(4, 4))
    assert store.classes.equals(made.classes)
    assert store.class_names == made.classes["name"].to_pylist()
    assert store.class_groups.tolist() == [0, 0, 1, 1, 2]
    assert [store.has_receipt(chunk) for chunk in range(4)] == [True, True, True, False]
    assert store.receipt(2).start == 8


def test_one_buffer_is_filled_again_and_again(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 40, 256, 8)
    store = open_store(tmp_path / "a.kd")
    buffer = np.empty((4, 2, 256), np.float16)
    for start in range(0, 40, 4):
        strided = buffer[:, 1]  # a part of a larger buffer
        assert store.read(range(start, start + 4), out={"logits": strided})["logits"] is strided
        np.testing.assert_array_equal(strided, made.stored("logits")[start : start + 4])


def _read_only(shape, dtype):
    buffer = np.empty(shape, dtype)
    buffer.flags.writeable = False
    return buffer


@pytest.mark.parametrize(
    "buffer",
    [
        np.empty((2, 5), np.float32),
        np.empty((3, 5), np.float16),
        np.empty((2, 4), np.float16),
        np.empty(10, np.float16),
        _read_only((2, 5), np.float16),
    ],
    ids=["dtype", "rows", "width", "flat", "read-only"],
)
def test_wrong_buffers_are_refused(tmp_path, make_store, buffer):
    make_store(tmp_path / "a.kd")
    with pytest.raises(UsageError, match=r"'logits' must be float16 of shape \(2, 5\)"):
        open_store(tmp_path / "a.kd").read([0, 1], out={"logits": buffer})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([10], "from 0 to 9"),
        ([0, -1], "from 0 to 9"),
        ([[0, 1]], "from 0 to 9"),
        (3, "from 0 to 9"),
        (np.array([2**64 - 1], np.uint64), "from 0 to 9"),
        ([0.5], "whole numbers"),
        (["1"], "whole numbers"),
        (np.ones(10, bool), "flatnonzero"),
    ],
    ids=["above", "negative", "2-d", "scalar", "uint64", "fractions", "texts", "mask"],
)
def test_wrong_rows_are_refused(tmp_path, make_store, rows, message):
    make_store(tmp_path / "a.kd")
    with pytest.raises(UsageError, match=message):
        open_store(tmp_path / "a.kd").read(rows)


@pytest.mark.parametrize("view", [2, -1])
def test_a_view_out_of_range_is_refused(tmp_path, make_store, view):
    make_store(tmp_path / "a.kd", num_views=2)
    with pytest.raises(UsageError, match=f"View {view} .* it has 2, from 0"):
        open_store(tmp_path / "a.kd").read([0], view=view)


def test_a_missing_array_is_refused_with_what_to_do(tmp_path, make_store):
    make_store(tmp_path / "a.kd", arrays=["ranks"])
    with pytest.raises(MissingArrayError, match=r"has no 'logits', only ranks.*--write logits,ranks"):
        open_store(tmp_path / "a.kd").read([0])


def test_no_store_and_an_unfinished_store_are_refused(tmp_path, content):
    with pytest.raises(CorruptStoreError, match="Is this a kdpipe store"):
        open_store(tmp_path / "nothing")
    content().write(tmp_path / "a.kd")
    with pytest.raises(RefusedError, match="Run the same `kdpipe extract` again"):
        open_store(tmp_path / "a.kd")
    assert len(kdpipe.open_store(str(tmp_path / "a.kd"), allow_unfinished=True)) == 10


@pytest.mark.parametrize("harm", ["missing", "truncated", "longer", "empty"])
@pytest.mark.parametrize("shape", [(40, 256, 8), (10, 5, 4)], ids=["mapped", "unaligned"])
def test_a_damaged_chunk_is_refused_by_name(tmp_path, make_store, shape, harm):
    make_store(tmp_path / "a.kd", *shape)
    file = tmp_path / "a.kd" / array_file("logits", 0, 1)
    size = file.stat().st_size
    if harm == "missing":
        file.unlink()
    else:
        os.truncate(file, {"truncated": size - 1, "longer": size + 1, "empty": 0}[harm])
    with pytest.raises(CorruptStoreError, match=r"logits/c/0/1/0 .*Restore"):
        open_store(tmp_path / "a.kd").read([0])
    assert open_store(tmp_path / "a.kd").read([0], arrays=["ranks"])["ranks"].shape[0] == 1


@pytest.mark.parametrize("harm", ["missing", "truncated", "other rows", "other columns"])
def test_a_damaged_samples_table_is_refused_by_name(tmp_path, make_store, harm):
    made = make_store(tmp_path / "a.kd", 10, 5, 4)
    file = tmp_path / "a.kd" / samples_file(1)
    if harm == "missing":
        file.unlink()
    elif harm == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    else:
        table = made.samples.slice(4, 3) if harm == "other rows" else made.samples.slice(4, 4).drop(["label"])
        pq.write_table(table, file)
    with pytest.raises(CorruptStoreError, match=r"samples/00001.parquet .*Restore"):
        open_store(tmp_path / "a.kd").samples()


def _same_as_written(store, made):
    rows = np.arange(len(store))[::-1]
    batch = store.read(rows, arrays=("logits", "ranks"))
    return all(np.array_equal(values, made.stored(name)[rows]) for name, values in batch.items())


def test_a_forked_child_reads_after_its_parent_did(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 40, 256, 8)
    store = open_store(tmp_path / "a.kd")
    assert _same_as_written(store, made)
    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(0 if _same_as_written(store, made) else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert _same_as_written(store, made)


def test_a_fresh_process_reads_a_pickled_store(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 40, 256, 8)
    store = open_store(tmp_path / "a.kd")
    store.read([0])
    pickled = pickle.dumps(store)
    assert len(pickled) < 10_000, "no mapped rows travel"
    code = "import pickle, sys; store = pickle.load(sys.stdin.buffer); rows = store.read([39, 0])['logits']"
    child = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.stdout.buffer.write(rows.tobytes()); assert 'torch' not in sys.modules"],
        input=pickled,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert child.stdout == made.stored("logits")[[39, 0]].tobytes()


def test_threads_share_a_store(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 40, 5, 4)
    store = open_store(tmp_path / "a.kd")
    expected = made.stored("logits")

    def wrong_rows(seed):
        rows = np.random.default_rng(seed).integers(0, 40, 400).tolist()
        return [row for row in rows if not np.array_equal(store.read([row])["logits"][0], expected[row])]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(wrong_rows, range(4))) == [[], [], [], []]
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the mappings of the process")
def test_many_views_keep_few_files_mapped(tmp_path, make_store, monkeypatch):
    made = make_store(tmp_path / "a.kd", 40, 256, 8, num_views=6, arrays=["logits"])
    monkeypatch.setattr(reader, "MAX_MAPPINGS", 12)
    store = open_store(tmp_path / "a.kd")
    for view in [*range(6), 0]:
        np.testing.assert_array_equal(store.read([39], view=view)["logits"], made.stored("logits", view)[[39]])
        with Path("/proc/self/maps").open() as maps:
            assert sum(str(tmp_path) in line for line in maps) <= 12


def test_plain_zarr_opens_it(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 10, 5, 4, num_views=2)
    group = zarr.open_group(tmp_path / "a.kd" / "payload.zarr", mode="r", use_consolidated=False)
    assert group.attrs["kdpipe"] == {"store_id": made.manifest.store_id}
    for name, last in {"logits": "class", "ranks": "rank"}.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert array.metadata.dimension_names == ("view", "sample", last)  # pyright: ignore
        for view in range(2):
            np.testing.assert_array_equal(array[view], made.stored(name, view))
    assert np.isnan(group["logits"].fill_value)  # pyright: ignore
    assert group["ranks"].fill_value == 255  # pyright: ignore


def test_xarray_opens_it(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 10, 300, 4, num_views=2, dtype="float32", rank_depth=7)
    with xarray.open_zarr(tmp_path / "a.kd" / "payload.zarr", consolidated=False, mask_and_scale=False) as data:
        assert dict(data.sizes) == {"view": 2, "sample": 10, "class": 300, "rank": 7}
        np.testing.assert_array_equal(data["logits"].sel(view=1), made.stored("logits", 1))
        np.testing.assert_array_equal(data["ranks"].isel(view=0, sample=9), made.stored("ranks")[9])


def test_pyarrow_opens_its_tables(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 10, 5, 4)
    assert pq.read_table(tmp_path / "a.kd" / "samples").sort_by("row").equals(made.samples)
    assert pq.read_table(tmp_path / "a.kd" / "classes.parquet").equals(made.classes)


def test_the_last_chunk_is_padded_with_the_fill_value(tmp_path, make_store):
    make_store(tmp_path / "a.kd", 10, 5, 4)
    logits = np.fromfile(tmp_path / "a.kd" / array_file("logits", 0, 2), "<f2").reshape(4, 5)
    ranks = np.fromfile(tmp_path / "a.kd" / array_file("ranks", 0, 2), np.uint8).reshape(4, 5)
    assert np.isnan(logits[2:]).all()
    assert (ranks[2:] == 255).all()


def test_an_unfinished_store_gives_no_rows_while_a_chunk_is_missing(tmp_path, content):
    content(10, 5, 4).write(tmp_path / "a.kd", chunks=[0, 2])
    with pytest.raises(CorruptStoreError, match="logits/c/0/1/0"):
        open_store(tmp_path / "a.kd", allow_unfinished=True).read([0])


def test_a_store_opened_to_be_verified_refuses_an_altered_chunk(tmp_path, make_store):
    made = make_store(tmp_path / "a.kd", 10, 5, 4)
    path = tmp_path / "a.kd" / "payload.zarr" / "logits" / "c" / "0" / "1" / "0"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    store = pickle.loads(pickle.dumps(open_store(tmp_path / "a.kd", verify=True)))
    np.testing.assert_array_equal(store.read([0, 9])["logits"], made.stored("logits")[[0, 9]])
    with pytest.raises(CorruptStoreError, match=r"logits/c/0/1/0 is not what its receipt says"):
        store.read([0, 5])
    store.read([5], arrays=("ranks",))
    open_store(tmp_path / "a.kd").read([5])
