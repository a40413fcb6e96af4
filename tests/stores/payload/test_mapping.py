"""Mapped side by side or chunk by chunk: the same rows; a damaged file is an error, never a SIGBUS."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError
from kdpipe.stores.payload import mapping
from kdpipe.stores.payload.mapping import MappedRows

# 8 rows of 256 float16 values are one page
ROWS, WIDTH = 8, 256


def _write_chunks(folder, num_chunks, rows=ROWS, width=WIDTH):
    values = np.random.default_rng(num_chunks).normal(size=(num_chunks * rows, width)).astype(np.float16)
    files = [folder / str(number) for number in range(num_chunks)]
    for file, chunk in zip(files, np.split(values, num_chunks), strict=True):
        chunk.tofile(file)
    return files, values


@given(num_chunks=st.integers(1, 5), picks=st.lists(st.integers(0, 10**6), max_size=30))
def test_both_ways_give_the_same_rows(tmp_path_factory, num_chunks, picks):
    files, values = _write_chunks(tmp_path_factory.mktemp("chunks"), num_chunks)
    rows = np.array(picks, np.int64) % len(values)
    mapped = MappedRows(files, ROWS, WIDTH, "float16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping, "MAX_MAPPINGS", 0)
        by_chunk = MappedRows(files, ROWS, WIDTH, "float16")
    assert mapped.mappings == by_chunk.mappings == num_chunks
    for each in (mapped, by_chunk):
        out = np.full((len(rows), WIDTH), np.nan, np.float16)
        each.gather(rows, out)
        np.testing.assert_array_equal(out, values[rows])


@pytest.mark.skipif(sys.platform != "linux", reason="mapped side by side on Linux alone")
@pytest.mark.parametrize(("num_chunks", "width", "flat"), [(3, 256, True), (1, 5, True), (3, 5, False)])
def test_whole_pages_and_single_chunks_are_mapped_side_by_side(tmp_path, num_chunks, width, flat):
    files, values = _write_chunks(tmp_path, num_chunks, width=width)
    rows = MappedRows(files, ROWS, width, "float16")
    assert (rows._flat is not None) == flat
    out = np.empty((2, width), np.float16)
    rows.gather(np.array([len(values) - 1, 0]), out)
    np.testing.assert_array_equal(out, values[[-1, 0]])


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, None])
def test_a_file_of_another_size_is_refused_before_it_is_mapped(tmp_path, size):
    files, _ = _write_chunks(tmp_path, 3)
    if size is None:
        files[1].unlink()
    else:
        os.truncate(files[1], size)
    with pytest.raises(CorruptStoreError, match=rf"{files[1]} .*Restore this chunk"):
        MappedRows(files, ROWS, WIDTH, "float16")


@pytest.mark.parametrize("harm", ["truncated", "missing"])
def test_chunk_by_chunk_a_file_is_looked_at_again_when_it_is_opened(tmp_path, harm):
    files, _ = _write_chunks(tmp_path, 3, width=5)
    rows = MappedRows(files, ROWS, 5, "float16")
    if harm == "missing":
        files[1].unlink()
    else:
        os.truncate(files[1], 10)
    out = np.empty((1, 5), np.float16)
    rows.gather(np.array([0]), out)
    with pytest.raises(CorruptStoreError, match=rf"{files[1]} .*Restore this chunk"):
        rows.gather(np.array([ROWS]), out)


def test_a_replaced_file_does_not_disturb_who_has_mapped_it(tmp_path):
    files, values = _write_chunks(tmp_path, 3)
    rows = MappedRows(files, ROWS, WIDTH, "float16")
    (tmp_path / "new").touch()
    (tmp_path / "new").replace(files[1])
    out = np.empty((1, WIDTH), np.float16)
    rows.gather(np.array([ROWS]), out)
    np.testing.assert_array_equal(out, values[[ROWS]])


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files")
def test_a_store_far_larger_than_memory_is_mapped(tmp_path):
    file, size = tmp_path / "sparse", 2**42
    file.touch()
    try:
        os.truncate(file, size)
    except OSError:
        pytest.skip("the file system has no such large files")
    width = 2**16
    rows = MappedRows([file], size // (2 * width), width, "float16")
    out = np.ones((2, width), np.float16)
    rows.gather(np.array([0, size // (2 * width) - 1]), out)
    assert not out.any()


@pytest.mark.skipif(sys.platform != "linux", reason="counts the mappings of the process")
def test_mappings_and_descriptors_end_with_the_rows(tmp_path):
    files, _ = _write_chunks(tmp_path, 3)

    def held():
        with Path("/proc/self/maps").open() as maps:
            return sum(str(tmp_path) in line for line in maps)

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    rows = MappedRows(files, ROWS, WIDTH, "float16")
    assert held() == 3
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    del rows
    assert held() == 0
