"""Fidelity: each figure against an independent computation."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kdpipe.stores.codecs import Factorised, FidelityTally, Float16, Float32, Int8, TopK
from kdpipe.stores.codecs.fidelity import spearman
from scipy import special, stats

GROUPS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 4, (50, 10)).astype(np.float32)


def measured(codec, logits, **options):
    tally = FidelityTally(codec, GROUPS, **options)
    tally.add(logits[:20])
    tally.add(logits[20:])
    return tally.result()


def mean_spearman(one: np.ndarray, other: np.ndarray) -> float:
    pairs: Any = (stats.spearmanr(*rows) for rows in zip(one, other, strict=True))
    return float(np.mean([pair.statistic for pair in pairs]))


def test_an_exact_codec_changes_nothing(logits):
    found = measured(Float32(), logits)
    assert (found.rows, found.top1_flips, found.adjacent_ties) == (50, 0, 0)
    assert found.kl == {1: 0, 4: 0}
    assert found.group_mass_error == {1: 0, 4: 0}
    assert found.rank_correlation == pytest.approx(1)
    assert found.coverage[4] == (1, 1, 1)


@pytest.mark.parametrize("codec", [Float16(), Int8()], ids=str)
def test_the_figures_of_a_codec_that_rounds(codec, logits):
    found = measured(codec, logits, temperatures=(1, 2.5))
    decoded = codec.decode(codec.encode(logits, GROUPS)).astype(np.float64)
    for temperature in (1, 2.5):
        p, q = (special.softmax(values / temperature, axis=1) for values in (logits.astype(np.float64), decoded))
        assert found.kl[temperature] == pytest.approx(stats.entropy(p, q, axis=1).mean(), rel=1e-6, abs=1e-12)
        error = np.abs(np.stack([(p - q)[:, g == GROUPS].sum(1) for g in range(3)])).max(0).mean()
        assert found.group_mass_error[temperature] == pytest.approx(error, rel=1e-6)
    assert found.kl[1] > 0
    ties = [(np.diff(np.sort(row)) == 0).mean() for row in decoded]
    assert found.adjacent_ties == pytest.approx(np.mean(ties))
    assert found.rank_correlation == pytest.approx(mean_spearman(logits, decoded))


def test_the_figures_of_top_k(logits):
    found = measured(TopK(k=4), logits)
    order = np.argsort(-logits, axis=1)
    kept = np.zeros_like(logits, bool)
    np.put_along_axis(kept, order[:, :4], True, axis=1)
    for temperature in (1, 4):
        p = special.softmax(logits.astype(np.float64) / temperature, axis=1)
        tail = np.where(kept, 0, p)
        spread = np.where(kept, p, tail.sum(1, keepdims=True) / 6)
        assert found.kl[temperature] == pytest.approx(stats.entropy(p, spread, axis=1).mean(), rel=1e-4)
        for group in range(3):
            members = group == GROUPS
            share = np.where(kept, p, 0)[:, members].sum() / p[:, members].sum()
            assert found.coverage[temperature][group] == pytest.approx(share)
        assert found.group_mass_error[temperature] < 1e-6
    assert found.top1_flips == 0
    assert found.adjacent_ties == pytest.approx(5 / 9)
    assert found.rank_correlation == pytest.approx(mean_spearman(logits, np.where(kept, logits, -99)))


def test_top_k_of_all_classes_loses_nothing(logits):
    found = measured(TopK(k=10), logits)
    assert found.kl[4] == pytest.approx(0, abs=1e-6)
    assert found.rank_correlation == pytest.approx(1)


def test_features_are_measured_through_the_classifier():
    generator = np.random.default_rng(0)
    features = generator.normal(0, 2, (30, 4)).astype(np.float32)
    weight, bias = generator.normal(0, 1, (10, 4)).astype(np.float32), np.zeros(10, np.float32)
    constants = {"classifier_weight": weight, "classifier_bias": bias}
    tally = FidelityTally(Factorised(num_features=4), GROUPS, constants=constants)
    tally.add(features @ weight.T, features)
    assert 0 < tally.result().kl[1] < 1e-5


def test_flips_are_counted():
    tally = FidelityTally(Float16(), GROUPS)
    logits = np.zeros((4, 10), np.float32)
    logits[:, 3], logits[:2, 1], logits[2:, 7] = 1.0001, 1.0, 1.0  # equal as float16: the lower class id wins
    tally.add(logits)
    assert tally.result().top1_flips == 0.5


@given(hnp.arrays(np.float32, (2, 7), elements=st.integers(0, 4).map(float)))
def test_rank_correlation_is_spearman_s(values):
    expected = mean_spearman(values[:1], values[1:]) if np.ptp(values, axis=1).all() else 0
    assert spearman(values[:1], values[1:])[0] == pytest.approx(expected)
