"""Chunk files are C-order little-endian bytes, padded to whole chunks; the metadata is plain Zarr v3."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import ArrayInfo
from kdpipe.stores.payload.zarr_files import chunk_bytes, metadata_documents

DTYPES = {"float16": "<f2", "float32": "<f4", "uint8": "|u1", "uint16": "<u2"}


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    width=st.integers(1, 9),
    chunk_rows=st.integers(1, 9),
    missing=st.integers(0, 8),
    transposed=st.booleans(),
)
def test_a_chunk_is_its_rows_and_then_fill_values(dtype, width, chunk_rows, missing, transposed):
    info = ArrayInfo(name="logits" if "float" in dtype else "ranks", dtype=dtype, width=width)
    rows = max(chunk_rows - missing, 1)
    values = np.random.default_rng(0).integers(0, 200, (rows, width))
    data = chunk_bytes(info, np.asfortranarray(values) if transposed else values, chunk_rows)
    found = np.frombuffer(data, DTYPES[dtype]).reshape(chunk_rows, width)
    np.testing.assert_array_equal(found[:rows], values)
    np.testing.assert_array_equal(found[rows:], np.full((chunk_rows - rows, width), info.fill_value))
    assert data.nbytes == chunk_rows * info.row_bytes


def test_a_full_chunk_of_the_stored_type_is_not_copied():
    values = np.zeros((4, 5), np.float16)
    data = chunk_bytes(ArrayInfo(name="logits", dtype="float16", width=5), values, 4)
    values[0, 0] = 1
    assert data[:2].tobytes() == np.float16(1).tobytes()


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 255), ("uint16", 65535)])
def test_missing_ranks_are_the_largest_id(dtype, value):
    assert ArrayInfo(name="ranks", dtype=dtype, width=5).fill_value == value


def test_the_metadata_documents(content):
    made = content(10, 300, 4, num_views=2, rank_depth=7)
    documents = {name: json.loads(data) for name, data in metadata_documents(made.manifest).items()}
    assert list(documents) == [f"payload.zarr/{name}zarr.json" for name in ("", "logits/", "ranks/")]
    assert documents["payload.zarr/zarr.json"]["attributes"] == {"kdpipe": {"store_id": made.manifest.store_id}}
    logits, ranks = documents["payload.zarr/logits/zarr.json"], documents["payload.zarr/ranks/zarr.json"]
    assert (logits["shape"], logits["data_type"], logits["fill_value"]) == ([2, 10, 300], "float16", "NaN")
    assert (ranks["shape"], ranks["data_type"], ranks["fill_value"]) == ([2, 10, 7], "uint16", 65535)
    for document in (logits, ranks):
        assert document["zarr_format"] == 3
        assert document["chunk_grid"]["configuration"]["chunk_shape"][:2] == [1, 4]
        assert [codec["name"] for codec in document["codecs"]] == ["bytes"], "uncompressed, so that it can be mapped"
        assert "consolidated_metadata" not in document
    assert logits["codecs"][0]["configuration"]["endian"] == "little"
    assert logits["dimension_names"] == ["view", "sample", "class"]
    assert ranks["dimension_names"] == ["view", "sample", "rank"]


def test_the_metadata_is_the_same_each_time(content):
    made = content()
    assert metadata_documents(made.manifest) == metadata_documents(made.manifest)
