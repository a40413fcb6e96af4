"""Stores of every released format version and kind open for ever."""

from pathlib import Path

import numpy as np
import pytest
from kdpipe.stores import open_store
from kdpipe.stores.checks.verify import verify

OLD = sorted((Path(__file__).parent / "old").glob("v*/*.kd"))
SMALL = {"logits": [-0.723, 0.182, -0.11, -0.3, -0.034, 0.49, -0.098, -0.042, -0.222, 0.063]}
INT8 = {
    "logits": [-0.723, 0.18, -0.108, -0.301, -0.036, 0.49, -0.101, -0.043, -0.219, 0.065],
    "logit_codes": [255, 129, 179, 206, 168, 0, 178, 169, 195, 151],
}
TOP = {
    "top_classes": [5, 1, 9],
    "top_logits": [0.49, 0.182, 0.063],
    "logsumexp": [2.267, 2.286],
    "group_logsumexp": [0.948, 1.446, 1.038, 1.049, 1.393, 1.082],
    "ranks": [5, 1, 9, 4, 7, 6, 2, 8, 3, 0],
}
VIEWS = {
    "logits": [0.125, -0.162, -0.298, 0.026, 0.037, 0.403, 0.077, 0.344, -0.479, 0.073],
    "boxes": [-0.25, -0.25, 0.75, 0.75],
    "flips": [0],
}
LARGE = {"logits": [-0.227, -0.005, 0.049, -0.234, -0.241, 0.723, -0.3, 0.228, -0.172, 0.415]}
# pinned: the first row of view 0 on the day it was written
FIRST_ROW = {
    "float16": LARGE,
    "float32-cut": LARGE | {"ranks": [5, 9, 7]},
    "float16-zstd": SMALL,
    "int8": INT8,
    "int8-zstd": INT8,
    "topk": TOP,
    "topk-zstd": TOP,
    "factorised": {
        "logits": [-0.178, 0.053, -0.23, 0.139, 0.027, -0.445, 0.175, 0.208, 0.196, -0.145],
        "features": [0, 0.22, 0, 0],
    },
    "views": VIEWS,
    "views-mixed": {
        "logits": [-0.24, 0.006, -0.246, -0.104, 0.029, 0.47, 0.011, 0.178, -0.107, -0.004],
        "boxes": [-0.25, -0.25, 0.75, 0.75],
        "mix_rows": [9],
        "mix_ratios": [0.301],
        "mix_cuts": [0, 0, 0, 0],
    },
    "parquet": SMALL,
    "parquet-lists": INT8,
    "parquet-views": VIEWS,
}


def test_every_kind_is_there() -> None:
    assert {path.stem for path in OLD} == FIRST_ROW.keys()


@pytest.mark.parametrize("path", OLD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_old_store_opens_and_is_whole(path: Path) -> None:
    assert verify(path, deep=True).whole
    store = open_store(path, verify=True)
    for name, row in FIRST_ROW[path.stem].items():
        np.testing.assert_allclose(store.read([0], arrays=(name,))[name][0].astype(float), row, rtol=0, atol=0.001)
    ranks = store.read(np.arange(len(store)), arrays=("ranks",))["ranks"]
    if "topk" not in path.stem:
        logits = store.read(np.arange(len(store)), arrays=("logits",))["logits"]
        assert logits.shape == (store.manifest.num_samples, 10)
        np.testing.assert_array_equal(logits.argmax(1), ranks[:, 0])
    samples = store.samples()
    assert samples["sample_id"][0].as_py().startswith("digits/")
    assert store.manifest.accuracy is not None
    correct = (ranks[:, 0] == samples["label"].to_numpy()).mean()
    assert correct == pytest.approx(store.manifest.accuracy.overall)


@pytest.mark.parametrize("name", ["views", "parquet-views"])
def test_every_view_of_an_old_store_is_read(name: str) -> None:
    (path,) = (path for path in OLD if path.stem == name)
    read = open_store(path).read([0], arrays=("logits", "boxes"), view=1)
    np.testing.assert_allclose(read["logits"][0], SMALL["logits"], rtol=0, atol=0.001)
    assert read["boxes"][0].tolist() == [0, 0, 1, 1]
