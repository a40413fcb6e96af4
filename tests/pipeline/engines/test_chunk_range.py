"""Ranges of chunks: together they are all chunks, each once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.engines.chunk_range import chunks_of
from kdpipe.stores import UsageError


@given(st.integers(0, 300), st.integers(1, 40))
def test_ranges_are_equal_and_make_all_chunks_once(num_chunks: int, count: int) -> None:
    ranges = [chunks_of(num_chunks, f"{number}/{count}") for number in range(1, count + 1)]
    assert [chunk for part in ranges for chunk in part] == list(range(num_chunks))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_without_a_range_all_chunks_are_meant() -> None:
    assert chunks_of(7, None) == range(7)


@pytest.mark.parametrize("text", ["", "3", "1/2/3", "a/b", "-1/4", "1.5/4", "1/", "1 / 4"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(UsageError, match="Write i/n"):
        chunks_of(9, text)


@pytest.mark.parametrize(("text", "hint"), [("5/4", "1-4"), ("0/4", "1-4"), ("0/0", "1-1")])
def test_a_range_that_is_not_there(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"counted from 1.*--array={hint}"):
        chunks_of(9, text)
