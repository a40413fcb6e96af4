"""Stores of every released format version open for ever."""

from pathlib import Path

import numpy as np
import pytest
from kdpipe.stores import open_store
from kdpipe.stores.verify import verify

FIRST_ROW = [-0.23, -0.0, 0.05, -0.23, -0.24, 0.72, -0.3, 0.23, -0.17, 0.42]
OLD = sorted((Path(__file__).parent / "old").glob("v*/*.kd"))


def test_there_are_old_stores() -> None:
    assert {path.name for path in OLD} >= {"float16.kd", "float32-cut.kd"}


@pytest.mark.parametrize("path", OLD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_old_store_opens_and_is_whole(path: Path) -> None:
    assert verify(path, deep=True).whole
    store = open_store(path, verify=True)
    read = store.read(np.arange(len(store)), arrays=("logits", "ranks"))
    logits = read["logits"].astype(np.float32)
    assert logits.shape == (store.manifest.num_samples, 10)
    np.testing.assert_array_equal(logits.argmax(1), read["ranks"][:, 0])
    samples = store.samples()
    assert samples["sample_id"][0].as_py().startswith("digits/")
    correct = (read["ranks"][:, 0] == samples["label"].to_numpy()).mean()
    assert store.manifest.accuracy is not None
    assert correct == pytest.approx(store.manifest.accuracy.overall)
    # pinned: what this store held on the day it was written
    assert logits[0].tolist() == pytest.approx(FIRST_ROW, abs=0.006)
