"""Ranks against plain Python's stable sort."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kdpipe.stores.ranking import rank_classes

# few values, so that ties are common; the extremes, and both zeros
LOGITS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 65504.0]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 40)), elements=LOGITS))
def test_best_first_and_equal_logits_by_class_id(logits):
    expected = [sorted(range(len(row)), key=lambda c, row=row: -float(row[c])) for row in logits]
    ranks = rank_classes(logits)
    assert ranks.dtype == np.uint16
    assert ranks.tolist() == expected


def test_the_largest_number_of_classes():
    logits = np.random.default_rng(0).normal(size=(2, 65_536)).astype(np.float32)
    logits[1] = 7
    ranks = rank_classes(logits)
    assert (np.diff(np.take_along_axis(logits, ranks.astype(int), 1)) <= 0).all()
    assert (np.sort(ranks, axis=1) == np.arange(65_536)).all()
    assert (ranks[1] == np.arange(65_536)).all()
