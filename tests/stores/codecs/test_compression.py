"""Compressed chunks: plain Zarr, byte for byte the same each time, and ranks in the bits they need."""

import math

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError
from kdpipe.stores.codecs.compression import compress, decompress, zarr_codec


def permutations(num_classes: int, rows: int = 256) -> np.ndarray:
    ranks = np.random.default_rng(0).random((rows, num_classes)).argsort(axis=1)
    return ranks.astype(np.uint8 if num_classes <= 256 else np.uint16)


@given(st.binary(min_size=4, max_size=3000), st.sampled_from([1, 2, 4]))
def test_what_is_compressed_comes_back(data, item_bytes):
    data = data[: len(data) // item_bytes * item_bytes]
    packed = compress(memoryview(data), item_bytes)
    assert packed == compress(memoryview(data), item_bytes)
    assert decompress(packed, len(data), "here").tobytes() == data


@pytest.mark.parametrize("num_classes", [10, 100, 256, 1000, 21841])
def test_ranks_cost_the_bits_they_need(num_classes):
    ranks = permutations(num_classes, 4096 if num_classes < 256 else 256 if num_classes <= 1000 else 32)
    bits = 8 * len(compress(ranks.data.cast("B"), ranks.itemsize)) / ranks.size
    assert bits <= 1.05 * math.ceil(math.log2(num_classes))


def test_zarr_reads_what_we_write_and_writes_what_we_read(tmp_path):
    ranks = permutations(1000, 64)
    array = zarr.create_array(
        tmp_path, shape=ranks.shape, chunks=ranks.shape, dtype="uint16", compressors=[zarr_codec(2)], filters=None
    )
    array[:] = ranks
    written = (tmp_path / "c" / "0" / "0").read_bytes()
    assert written == compress(ranks.data.cast("B"), 2)
    assert decompress(written, ranks.nbytes, "here").tobytes() == ranks.tobytes()
    ours = compress(ranks[::-1].copy().data.cast("B"), 2)
    (tmp_path / "c" / "0" / "0").write_bytes(ours)
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path, mode="r")[:]), ranks[::-1])


def test_damaged_chunks_are_refused():
    values = permutations(1000, 64)
    packed = compress(values.data.cast("B"), 2)
    huge = packed[:4] + (2**31 - 1).to_bytes(4, "little") + packed[8:]
    for damaged in (b"", packed[:10], packed[:-1], packed + b"\0", huge, b"\0" * len(packed)):
        with pytest.raises(CorruptStoreError, match="not a compressed chunk of 128000 bytes"):
            decompress(damaged, values.nbytes, "a/chunk")
    with pytest.raises(CorruptStoreError, match="not a compressed chunk"):
        decompress(packed, 2**40, "a/chunk")


@given(st.integers(16, 2000), st.integers(0, 255))
def test_a_wrong_byte_anywhere_harms_nothing_but_the_values(place, value):
    values = np.zeros((100, 100), np.uint16)
    values[:, ::3] = np.random.default_rng(1).integers(0, 100, (100, 34))
    packed = bytearray(compress(values.data.cast("B"), 2))
    packed[place % len(packed)] = value
    try:
        decompress(bytes(packed), values.nbytes, "a/chunk")
    except CorruptStoreError as error:
        assert "a/chunk" in str(error)  # noqa: PT017
