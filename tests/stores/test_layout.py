"""The grid of chunks, and how large they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores.layout import Grid, array_file, default_chunk_rows, receipt_file, samples_file

GRIDS = st.builds(Grid, st.integers(1, 500), st.integers(1, 5), st.integers(1, 600))


@given(grid=GRIDS)
def test_every_row_of_every_view_is_in_one_chunk(grid):
    seen = [(grid.view(chunk), row) for chunk in range(grid.num_chunks) for row in grid.rows(chunk)]
    assert seen == [(view, row) for view in range(grid.num_views) for row in range(grid.num_samples)]


@given(grid=GRIDS)
def test_only_the_last_chunk_of_a_view_is_partial(grid):
    for chunk in range(grid.num_chunks):
        rows = grid.rows(chunk)
        assert chunk == grid.view(chunk) * grid.chunks_per_view + grid.block(chunk)
        assert rows.start == grid.block(chunk) * grid.chunk_rows
        assert rows
        assert len(rows) == grid.chunk_rows or grid.block(chunk) == grid.chunks_per_view - 1


@given(num_samples=st.integers(1, 10**8), row_bytes=st.integers(1, 10**8))
def test_a_default_chunk_passes_no_32_megabytes_unless_one_row_does(num_samples, row_bytes):
    rows = default_chunk_rows(num_samples, row_bytes)
    assert 1 <= rows <= min(4096, num_samples)
    assert rows * row_bytes <= 32_000_000 or rows == 1
    if rows < min(4096, num_samples):
        assert 2 * rows * row_bytes > 32_000_000, "no smaller than needed"


@given(num_classes=st.integers(2, 7812), num_samples=st.integers(1, 10**8), bytes_each=st.sampled_from([2, 4]))
def test_default_chunks_of_common_shapes_are_whole_pages(num_classes, num_samples, bytes_each):
    rows = default_chunk_rows(num_samples, num_classes * bytes_each)
    if rows < num_samples and rows * num_classes * bytes_each <= 32_000_000 and rows >= 2048:
        assert rows * num_classes * bytes_each % 4096 == 0
    assert rows >= 2048 or rows == num_samples or num_classes * bytes_each > 15_625


@pytest.mark.parametrize(
    ("num_classes", "rows"), [(10, 4096), (1000, 4096), (3906, 4096), (3907, 2048), (7812, 2048), (21_841, 512)]
)
def test_default_chunk_rows_of_float16_stores(num_classes, rows):
    assert default_chunk_rows(1_281_167, 2 * num_classes) == rows


def test_all_rows_where_they_are_few():
    assert default_chunk_rows(1797, 20) == 1797


def test_files_sort_by_chunk():
    assert array_file("logits", 2, 13) == "payload.zarr/logits/c/2/13/0"
    assert samples_file(13) == "samples/00013.parquet"
    assert receipt_file(13) == "receipts/00013.json"
