"""What differs is told by name and value, and nothing else is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores.differences import told_differences

SETTINGS = st.dictionaries(st.sampled_from("abcdef"), st.none() | st.integers() | st.text(max_size=5), max_size=5)


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        ({"batch_size": 8, "lr": 0.1}, {"batch_size": 16, "lr": 0.1}, "batch-size is 8 there, 16 here"),
        ({}, {"ema": 0.9}, "ema is not set there, 0.9 here"),
        ({"resolved": {"store_views": 2}}, {"resolved": {"store_views": 3}}, "resolved.store-views is 2 there, 3 here"),
        ({"arrays": ["x" * 90]}, {"arrays": ["y" * 90]}, "arrays differ"),
        ({"loss": ["kd", "ce"]}, {"loss": ["kd"]}, 'loss is ["kd","ce"] there, ["kd"] here'),
        ({"data": "a", "seed": 1}, {"data": "b", "seed": 2}, "data is a there, b here; seed is 1 there, 2 here"),
    ],
)
def test_examples(there: dict[str, object], here: dict[str, object], told: str) -> None:
    assert told_differences(there, here) == told


@given(there=SETTINGS, here=SETTINGS)
def test_there_is_a_part_for_every_difference(there: dict[str, object], here: dict[str, object]) -> None:
    changed = {name for name in {*there, *here} if there.get(name) != here.get(name)}
    told = told_differences(there, here, {name: f"<{name}>" for name in "abcdef"})
    assert {name for name in "abcdef" if f"<{name}> is " in told} >= changed
    assert told.count(" there, ") >= len(changed)
    assert bool(told) == bool(changed)
