"""Replay: the teacher that made a store confirms it, whatever was stored; anything else is found or refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.recheck import Replay, _rises, recheck
from kdpipe.stores import ArrayInfo, MismatchError, UsageError, open_store
from kdpipe.stores.checks.content import labels_fingerprint
from kdpipe.stores.checks.report import Report
from kdpipe.stores.layout import array_file

DATA = "digits,split=train"
TEACHER = "python:replayed:teacher"
CODE = """
import torch
class T(torch.nn.Module):
    preprocessing = "image,mean=0.5,std=0.25"
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    def forward(self, x): return 20 * self.body(x.flatten(1))
def teacher(seed: int = 0): return T(int(seed))
"""
CHUNK_ROWS = 250


@pytest.fixture(autouse=True)
def teacher(module: Callable[[str, str], None]) -> None:
    module("replayed", CODE)


def make(tmp_path: Path, **changes: Any) -> Path:
    config = {"data": DATA, "teacher": TEACHER, "out": tmp_path / "d.kd", "chunk_rows": CHUNK_ROWS, **changes}
    extract(ExtractConfig(**config))
    return tmp_path / "d.kd"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"codec": "float32"},
        {"write": ("logits",)},
        {"write": ("ranks",)},
        {"rank_depth": 1},
        {"rank_depth": 3},
        {"order": "shuffled:3"},
        {"precision": "bf16"},
        {"preprocess": "image,mean=0.4"},
        {"batch_size": 7},
    ],
    ids=str,
)
def test_the_teacher_confirms_what_it_said(tmp_path, changes):
    store = make(tmp_path, **changes)
    replay = recheck(store, teacher=TEACHER, data=DATA, preprocess=changes.get("preprocess"), rows=100, device="cpu")
    assert (replay.rows, replay.findings) == (100, ())
    if changes.get("write") == ("ranks",):
        assert replay.largest_difference is None
    elif changes.get("precision") != "bf16":
        largest = float(np.abs(open_store(store).read(range(898))["logits"].astype(np.float32)).max())
        assert replay.largest_difference is not None
        assert 0 <= replay.largest_difference <= 2**-11 * largest + 1e-4 * largest


def rewrite(store: Path, name: str, block: int, change: Callable[[np.ndarray], None]) -> str:
    """Change a chunk's values on disk; gives the file's name."""
    info: ArrayInfo | None = open_store(store).manifest.array(name)  # pyright: ignore[reportArgumentType]
    assert info is not None
    path = array_file(name, 0, block)
    values = np.fromfile(store / path, info.dtype).reshape(-1, info.width)
    change(values)
    values.tofile(store / path)
    return path


def shift(values: np.ndarray) -> None:
    values += values.dtype.type(0.5)


def swap_best(values: np.ndarray) -> None:
    values[:, [0, 9]] = values[:, [9, 0]]


@pytest.mark.parametrize(("array", "change", "what"), [("logits", shift, "logits"), ("ranks", swap_best, "order")])
@pytest.mark.parametrize("block", [0, 3])
def test_a_chunk_that_says_something_else_is_named(tmp_path, array, change, what, block):
    store = make(tmp_path)
    path = rewrite(store, array, block, change)
    replay = recheck(store, teacher=TEACHER, data=DATA, rows=32)
    (finding,) = replay.findings
    assert (finding.path, finding.chunk, finding.check, finding.severity) == (path, block, "replay", "error")
    rows = np.linspace(0, 897, 32).round().astype(int) // CHUNK_ROWS
    count = int((rows == block).sum())
    assert f"the teacher gives other {what} in {count} of {count} rows" in finding.problem


def test_one_wrong_row_is_found_when_every_row_is_computed_again(tmp_path):
    store = make(tmp_path)
    path = rewrite(store, "logits", 1, lambda values: values.__setitem__((3, 4), values[3, 4] + 0.25))
    replay = recheck(store, teacher=TEACHER, data=DATA, rows=10**6)
    assert replay.rows == 898
    (finding,) = replay.findings
    assert finding.path == path
    assert "1 of 250 rows computed again: row 253 is off by 0.25" in finding.problem


@pytest.mark.parametrize(("low", "high", "found"), [(1e-3, 1e-2, True), (0, 1e-4, False)])
def test_swapped_ranks_are_found_unless_their_logits_are_as_good_as_equal(tmp_path, low, high, found):
    store = make(tmp_path, codec="float32")
    values = open_store(store).read(range(CHUNK_ROWS), arrays=("logits", "ranks"))
    ordered = np.take_along_axis(values["logits"], values["ranks"].astype(np.int64), axis=1)
    gaps = -np.diff(ordered, axis=1) / np.abs(ordered).max(1, keepdims=True)
    row, place = np.argwhere((gaps > low) & (gaps < high))[0].tolist()

    def swap(ranks: np.ndarray) -> None:
        ranks[row, [place, place + 1]] = ranks[row, [place + 1, place]]

    path = rewrite(store, "ranks", 0, swap)
    replay = recheck(store, teacher=TEACHER, data=DATA, rows=10**6, device="cpu")
    assert [finding.path for finding in replay.findings] == ([path] if found else [])


def test_numbers_that_are_not_finite_and_ranks_that_are_no_class_are_found(tmp_path):
    store = make(tmp_path)
    paths = {
        rewrite(store, "logits", 0, lambda values: values.fill(np.nan)),
        rewrite(store, "ranks", 1, lambda values: values.fill(77)),
    }
    replay = recheck(store, teacher=TEACHER, data=DATA, rows=50)
    assert {finding.path for finding in replay.findings} == paths


def test_a_replay_of_less_data_compares_the_rows_that_both_have(tmp_path):
    store = make(tmp_path)
    path = rewrite(store, "logits", 0, shift)
    replay = recheck(store, teacher=TEACHER, data=f"{DATA},imbalance=10", rows=40)
    assert replay.rows == 40
    assert [finding.path for finding in replay.findings] == [path]


def test_another_teacher_is_refused(tmp_path):
    store = make(tmp_path)
    with pytest.raises(MismatchError, match="has other weights"):
        recheck(store, teacher=f"{TEACHER},seed=1", data=DATA)


def test_another_preprocessing_is_refused(tmp_path):
    store = make(tmp_path)
    with pytest.raises(MismatchError, match="Give --preprocess as it was given to extract"):
        recheck(store, teacher=TEACHER, data=DATA, preprocess="image,mean=0.4")


def test_other_data_are_refused(tmp_path, module):
    store = make(tmp_path)
    with pytest.raises(MismatchError, match="No sample of the data set is in"):
        recheck(store, teacher=TEACHER, data="digits,split=test")
    module(
        "changed",
        "from sklearn.datasets import load_digits\nimport torch\n"
        "class D:\n"
        "    def __init__(self):\n"
        "        from kdpipe.pipeline.data import load_data\n"
        f"        self.samples = load_data({DATA!r})\n"
        "        self.sample_ids = self.samples.sample_ids.to_pylist()\n"
        "        self.targets, self.classes = self.samples.labels.tolist(), list(self.samples.class_names)\n"
        "    def __len__(self): return len(self.samples)\n"
        "    def __getitem__(self, i): return self.samples.raw(i) // 2, self.targets[i]\n"
        "def data(): return D()\n",
    )
    with pytest.raises(MismatchError, match="recomputed inputs are not what the teacher saw"):
        recheck(store, teacher=TEACHER, data="python:changed:data")


def test_verify_takes_the_fingerprint_of_labels_as_an_extraction_does():
    samples = load_data(DATA)
    assert labels_fingerprint(samples.labels.astype(np.int32)) == samples.info().labels


def test_no_rows(tmp_path):
    with pytest.raises(UsageError, match="must be at least 1"):
        recheck(tmp_path / "nowhere.kd", teacher=TEACHER, data=DATA, rows=0)


def test_a_report_takes_the_replay(tmp_path):
    replay = Replay(rows=3, largest_difference=0.5, findings=())
    report = replay.added_to(Report(path="a"))
    assert report == dataclasses.replace(Report(path="a"), rows_recomputed=3, largest_difference=0.5)


@given(st.integers(1, 6), st.integers(2, 8), st.data())
def test_rises_are_by_how_much_a_worse_class_beats_a_better_one(num_rows, num_classes, data):
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    logits = generator.integers(0, 5, (num_rows, num_classes)).astype(np.float32)
    depth = data.draw(st.integers(1, num_classes))
    ranks = np.argsort(generator.random((num_rows, num_classes)), axis=1)[:, :depth]
    expected = np.zeros((num_rows, depth))
    for row in range(num_rows):
        for place in range(depth):
            worse = set(range(num_classes)) - set(ranks[row, : place + 1].tolist())
            beaten = [logits[row, other] - logits[row, ranks[row, place]] for other in worse]
            expected[row, place] = max([0.0, *beaten])
    np.testing.assert_array_equal(_rises(logits, ranks), expected)
    best = torch.sort(torch.from_numpy(logits), dim=1, descending=True, stable=True).indices.numpy()[:, :depth]
    assert not _rises(logits, best).any()
