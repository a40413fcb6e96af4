"""Accuracies are plain fractions, and counts add up over batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores.accuracy import AccuracyTally

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=60)


def tally_of(*batches: list[tuple[int, int]]) -> AccuracyTally:
    tally = AccuracyTally(6)
    for batch in batches:
        columns = np.array(batch, np.int64).reshape(-1, 2)
        tally.add(columns[:, 0], columns[:, 1])
    return tally


def fraction(hits: list[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


@given(PAIRS, st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_accuracy_is_what_counting_by_hand_gives(pairs: list[tuple[int, int]], groups: list[int]) -> None:
    got = tally_of(pairs).accuracy(np.array(groups))
    hits = [label == predicted for label, predicted in pairs]
    assert got.overall == pytest.approx(fraction(hits) or 0.0)
    by_class = [fraction([p == c for label, p in pairs if label == c]) for c in range(6)]
    seen = [value for value in by_class if value is not None]
    assert got.balanced == pytest.approx(sum(seen) / len(seen) if seen else 0.0)
    for number, name in enumerate(("head", "medium", "tail")):
        expected = fraction([p == label for label, p in pairs if groups[label] == number])
        value = getattr(got, name)
        assert value is None if expected is None else value == pytest.approx(expected)


@given(PAIRS, st.integers(0, 60))
def test_batches_add_up(pairs: list[tuple[int, int]], cut: int) -> None:
    groups = np.array([0, 0, 1, 1, 2, 2])
    whole, parts = tally_of(pairs), tally_of(pairs[:cut], pairs[cut:])
    assert whole.accuracy(groups) == parts.accuracy(groups)
    assert whole.totals.sum() == len(pairs)
