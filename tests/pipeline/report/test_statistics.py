"""The numbers of a store's report, against float64 computations by the definitions."""

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.report import codec_fidelity, payload, sample_tables
from kdpipe.pipeline.report.payload import payload_statistics
from kdpipe.pipeline.report.sample_tables import CONFIDENCE_BINS, ENTROPY_BINS, Reliability, sample_statistics
from kdpipe.stores import CorruptStoreError
from kdpipe.stores.arrays import GROUP_NAMES
from scipy.stats import rankdata

GROUPS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])


@pytest.fixture(scope="module")
def said(teacher_says: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    return teacher_says(60, 9)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def store(place: Path, said: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]) -> Any:
    return make_store(place / "plain.kd", *said)


def ece_of(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al., equations 2 to 5, row by row and bin by bin."""
    total = 0.0
    for number in range(CONFIDENCE_BINS):
        low, high = number / CONFIDENCE_BINS, (number + 1) / CONFIDENCE_BINS
        members = [i for i, c in enumerate(confidence) if low < c <= high]
        if members:
            gap = sum(correct[i] for i in members) / len(members) - sum(confidence[i] for i in members) / len(members)
            total += len(members) / len(confidence) * abs(gap)
    return total


# the sample tables


def test_counts_confusion_and_accuracy(store: Any, said: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = said
    found, top1 = sample_statistics(store), logits.argmax(1)
    assert found.rows == 60
    for c in range(9):
        assert found.class_rows[c] == (labels == c).sum()
        assert found.class_correct[c] == ((labels == c) & (top1 == c)).sum()
    for g in range(3):
        for h in range(3):
            assert found.confusion[g][h] == ((GROUPS[labels] == g) & (GROUPS[top1] == h)).sum()


def test_calibration_and_entropy(
    store: Any, said: tuple[np.ndarray, np.ndarray], probabilities: Callable[..., np.ndarray]
) -> None:
    logits, labels = said
    p, found = probabilities(logits), sample_statistics(store)
    confidence, correct = p.max(1).astype(np.float32).astype(np.float64), logits.argmax(1) == labels
    entropy = -(p * np.log(p)).sum(1)
    parts = {"all": np.ones(60, bool), **{name: GROUPS[labels] == g for g, name in enumerate(GROUP_NAMES)}}
    assert found.reliability.keys() == found.entropy.keys() == parts.keys()
    for name, members in parts.items():
        each = found.reliability[name]
        assert each.ece == pytest.approx(ece_of(confidence[members], correct[members]), abs=1e-6)
        assert each.gap == pytest.approx(confidence[members].mean() - correct[members].mean(), abs=1e-6)
        assert sum(each.counts) == members.sum()
        assert found.entropy[name] == pytest.approx(entropy[members].mean(), abs=1e-6)
    for name in GROUP_NAMES:
        counts, _ = np.histogram(entropy[parts[name]], ENTROPY_BINS, (0, np.log(9)))
        assert found.entropy_counts[name] == tuple(counts)


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans()), min_size=1, max_size=60))
def test_ece_of_any_confidences(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(column, float) for column in zip(*rows, strict=True))
    bins = sample_tables.confidence_bin(confidence)
    sums = [np.bincount(bins, w, minlength=CONFIDENCE_BINS) for w in (np.ones(len(rows)), confidence, correct)]
    found = Reliability.of_sums(*sums)
    assert found.ece == pytest.approx(ece_of(confidence, correct), abs=1e-12)
    assert found.ece >= abs(found.gap) - 1e-12


# the payload


@pytest.mark.parametrize("block", [2**21, 40, 1])
def test_masses(
    store: Any, said: tuple[np.ndarray, np.ndarray], probabilities: Callable[..., np.ndarray], block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(payload, "_BLOCK_LOGITS", block)
    logits, labels = said
    for found in payload_statistics(store, (1.0, 2.5)).masses:
        p = probabilities(logits, found.temperature)
        masses = np.stack([p[:, g == GROUPS].sum(1) for g in range(3)], axis=1)
        assert found.groups == pytest.approx(masses.mean(0), rel=1e-10)
        assert found.classes == pytest.approx(p.mean(0), rel=1e-10)
        balanced = np.mean([masses[labels == c].mean(0) for c in np.unique(labels)], axis=0)
        assert found.balanced == pytest.approx(balanced, rel=1e-10)
        for g in range(3):
            np.testing.assert_allclose(found.flow[g], masses[GROUPS[labels] == g].mean(0), rtol=1e-10)


def order_by_hand(logits: np.ndarray, labels: np.ndarray, k: int) -> tuple[list[float], list[float]]:
    """By group, then: the classes ever among the best k; the labels among the best k (last: of all samples)."""
    best = [sorted(range(9), key=lambda c: (-row[c], c))[:k] for row in logits]
    seen = {c for row in best for c in row}
    covered = [float(np.mean([c in seen for c in np.flatnonzero(g == GROUPS)])) for g in range(3)]
    hits = np.array([label in row for label, row in zip(labels, best, strict=True)])
    return covered, [float(hits[GROUPS[labels] == g].mean()) for g in range(3)] + [float(hits.mean())]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"arrays": ("ranks",)},
        {"arrays": ("logits",)},
        {"rank_depth": 5, "arrays": ("ranks",)},
        {"codec": "topk:6", "arrays": ("logits",)},
    ],
    ids=["both", "ranks", "logits", "few ranks", "topk"],
)
def test_order(
    settings: dict[str, Any], tmp_path: Path, said: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    found = payload_statistics(make_store(tmp_path / "s.kd", *said, **settings), (1.0,)).order
    assert found is not None
    assert found.depths == (1, 2, 5)
    for place, k in enumerate(found.depths):
        covered, hits = order_by_hand(*said, k)
        for g, name in enumerate(GROUP_NAMES):
            assert found.covered[name][place] == pytest.approx(covered[g])
            assert found.found[name][place] == pytest.approx(hits[g])
        assert found.found["all"][place] == pytest.approx(hits[3])


def test_coverage_grows_with_k(tmp_path: Path, make_store: Callable[..., Any]) -> None:
    logits = np.array([[6, 5, 4, 3, 2, 1], [7, 5, 4, 3, 2, 1]], np.float32)  # the same order twice
    order = payload_statistics(make_store(tmp_path / "s.kd", logits, np.array([0, 3])), (1.0,)).order
    assert order is not None
    assert order.depths == (1, 2, 5)
    assert order.covered == {"head": (0.5, 1.0, 1.0), "medium": (0.0, 0.0, 1.0), "tail": (0.0, 0.0, 0.5)}
    assert order.found == {"all": (0.5, 0.5, 1.0), "head": (1.0, 1.0, 1.0), "medium": (0.0, 0.0, 1.0)}


def test_a_store_of_the_best_classes_knows_its_groups(
    tmp_path: Path, said: tuple[np.ndarray, np.ndarray], store: Any, make_store: Callable[..., Any]
) -> None:
    top = payload_statistics(make_store(tmp_path / "t.kd", *said, codec="topk:2,temperatures=1,4"), (1.0, 4.0, 8.0))
    plain = payload_statistics(store, (1.0, 4.0)).masses
    for one, other in zip(top.masses, plain, strict=True):
        np.testing.assert_allclose(one.groups, other.groups, rtol=1e-5)
        np.testing.assert_allclose(one.flow, other.flow, rtol=1e-5)
        assert one.classes is None
    assert "T = 8" in top.missing[1]


@pytest.fixture(scope="module")
def close_logits(teacher_says: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    """Logits so close to each other that float16 and int8 make many of them equal, and some rows' best another one."""
    logits, labels = teacher_says(60, 9)
    return logits / 100 + 20, labels


@pytest.mark.parametrize("codec", ["float16", "int8"])
@pytest.mark.parametrize("most", [20_000, 20])
def test_what_a_codec_changed(
    codec: str, most: int, tmp_path: Path, close_logits: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any],
    probabilities: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(codec_fidelity, "_MAX_ROWS", most)
    store = make_store(tmp_path / "s.kd", *close_logits, codec=codec)
    found = payload_statistics(store, (1.0,)).fidelity
    assert found is not None
    chosen = np.arange(0, 60, 1 if most > 60 else 3)
    true, labels = (values[chosen] for values in close_logits)
    stored = store.read(chosen)["logits"].astype(np.float64)
    p, q = probabilities(true), probabilities(stored)
    same = true.argmax(1) == stored.argmax(1)
    entropies = [-(values * np.log(values)).sum(1) for values in (p, q)]
    pairs = [(np.corrcoef(rankdata(a), rankdata(b))[0, 1]) for a, b in zip(true, stored, strict=True)]
    equal = [np.mean(np.diff(np.sort(row)) == 0) for row in stored]
    assert found.rows == len(chosen)
    assert found.same_best["all"] == pytest.approx(same.mean())
    for g, name in enumerate(GROUP_NAMES):
        assert found.same_best[name] == pytest.approx(same[GROUPS[labels] == g].mean())
    assert found.confidence_error == pytest.approx(np.abs(p.max(1) - q.max(1)).mean(), abs=1e-7)
    assert found.entropy_error == pytest.approx(np.abs(entropies[0] - entropies[1]).mean(), abs=1e-6)
    assert found.rank_correlation == pytest.approx(np.mean(pairs))
    assert found.ties == pytest.approx(np.mean(equal))
    assert found.kept_mass == {}
    if codec == "float16":
        assert 0 < found.same_best["all"] < 1
        assert found.ties


def test_what_the_best_classes_keep(
    tmp_path: Path, said: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any],
    probabilities: Callable[..., np.ndarray],
) -> None:  # fmt: skip
    logits, _ = said
    store = make_store(tmp_path / "s.kd", *said, codec="topk:3,temperatures=1,4")
    found = payload_statistics(store, (1.0, 2.0, 4.0)).fidelity
    assert found is not None
    kept = np.zeros(logits.shape, bool)
    np.put_along_axis(kept, np.argsort(-logits, axis=1)[:, :3], True, axis=1)
    assert found.kept_mass.keys() == {1.0, 4.0}  # it stores no sums at 2
    for temperature, shares in found.kept_mass.items():
        p = probabilities(logits, temperature)
        assert shares["all"] == pytest.approx((p * kept).sum() / len(p), rel=1e-6)
        for g, name in enumerate(GROUP_NAMES):
            members = g == GROUPS
            assert shares[name] == pytest.approx((p * kept)[:, members].sum() / p[:, members].sum(), rel=1e-6)
    assert found.confidence_error == pytest.approx(0, abs=1e-6)
    assert (found.same_best["all"], found.entropy_error, found.rank_correlation, found.ties) == (1, None, None, None)


@pytest.mark.parametrize("settings", [{"codec": "float32"}, {"arrays": ("ranks",)}], ids=["float32", "ranks"])
def test_what_changes_nothing_is_not_measured(
    settings: dict[str, Any], tmp_path: Path, said: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    assert payload_statistics(make_store(tmp_path / "s.kd", *said, **settings), (1.0,)).fidelity is None


def test_few_ranks_give_no_correlation(
    tmp_path: Path, said: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    found = payload_statistics(make_store(tmp_path / "s.kd", *said, codec="int8", rank_depth=4), (1.0,)).fidelity
    assert found is not None
    assert found.rank_correlation is None


@pytest.mark.parametrize(
    ("settings", "masses", "words"),
    [
        ({"arrays": ("ranks",)}, 0, "no logits"),
        ({"codec": "int8"}, 1, "int8 changes logits"),
        ({"codec": "topk:3,temperatures=4"}, 0, "T = 1"),
        ({}, 1, ""),
    ],
)
def test_what_cannot_be_told_is_said(
    settings: dict[str, Any], masses: int, words: str, tmp_path: Path, said: tuple[np.ndarray, np.ndarray],
    make_store: Callable[..., Any],
) -> None:  # fmt: skip
    found = payload_statistics(make_store(tmp_path / "s.kd", *said, **settings), (1.0,))
    assert len(found.masses) == masses
    assert words in " ".join(found.missing)
    assert bool(words) == bool(found.missing)


def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, teacher_says: Callable[..., Any], make_store: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_BLOCK_LOGITS", 2**12)
    peaks = []
    for num_samples in (2_000, 2_001, 42_001):  # the first is for what is loaded and kept at first use
        store = make_store(tmp_path / f"{num_samples}.kd", *teacher_says(num_samples, 9), chunk_rows=2000)
        tracemalloc.start()
        payload_statistics(store, (1.0,))
        sample_statistics(store)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 2 * 40_000  # two bytes a row: not even the labels are held


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", 99), ("label", -1), ("teacher_top1", 9), ("teacher_confidence", np.nan), ("teacher_entropy", np.inf)],
)
def test_what_cannot_be_is_refused(
    column: str, value: float, tmp_path: Path, said: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    store = make_store(tmp_path / "s.kd", *said)
    file = tmp_path / "s.kd" / "samples" / "00001.parquet"
    table = pq.read_table(file)
    field = table.schema.field(column)
    values = [value, *table[column].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.names.index(column), field, pa.array(values, field.type)), file)
    with pytest.raises(CorruptStoreError):
        sample_statistics(store)


def test_ranks_that_name_no_class_are_refused(
    tmp_path: Path, said: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    store = make_store(tmp_path / "s.kd", *said)
    file = tmp_path / "s.kd" / "payload.zarr" / "ranks" / "c" / "0" / "1" / "0"
    file.write_bytes(b"\xc8" * file.stat().st_size)
    with pytest.raises(CorruptStoreError, match="classes that it does not have"):
        payload_statistics(store, (1.0,))


def test_groups_and_classes_without_samples(tmp_path: Path, make_store: Callable[..., Any]) -> None:
    logits = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    store = make_store(tmp_path / "s.kd", logits, np.array([0, 0, 1, 1, 0, 1, 0, 1]), groups=[0, 0, 1, 1, 1, 1])
    tables, found = sample_statistics(store), payload_statistics(store, (1.0,))
    assert tables.reliability.keys() == {"all", "head"}
    assert found.order is not None
    assert found.order.covered.keys() == {"head", "medium"}
    assert found.order.found.keys() == {"all", "head"}
    assert found.masses[0].groups[2] == 0
    assert math.isnan(found.masses[0].flow[2][0])
    np.testing.assert_allclose(sum(found.masses[0].balanced), 1)
