"""Mixing: exact ratios, partners from all rows, cuts of the ratio's area, and inputs mixed as the numbers say."""

import numpy as np
import pytest
import torch
from kdpipe.pipeline.augment.generator import view_keys
from kdpipe.pipeline.augment.mixing import Mixing, beta, draw_mixing, mix
from scipy import stats

GOLDEN_ROWS = [987, 182, 726, 735]
GOLDEN_CUTS = [[0, 17, 20, 32], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
GOLDEN_RATIOS = [0.70703125, 0.824811637, 0.999990582, 5.114621e-07]


def keys(count: int) -> np.ndarray:
    return view_keys(0, 0, [str(i) for i in range(count)]).mixing


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 2.5, 4.0])
def test_ratios_are_beta_distributed(alpha: float) -> None:
    found = np.array([beta(key, alpha, first=4) for key in keys(1500)[:, None]])
    inner = np.clip(found, 1e-12, 1 - 1e-12)  # at 0.05 most lie nearer to an end than this
    assert stats.kstest(inner, lambda x: stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-3 or alpha < 0.1
    assert abs(found.mean() - 0.5) < 4 * np.sqrt(1 / (4 * (2 * alpha + 1)) / len(found))
    assert np.isclose(found.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.1)


def test_golden_mixing() -> None:
    mixing = draw_mixing(0.2, 1.0, keys(4), num_rows=1000, size=32)
    assert mixing.rows.tolist() == GOLDEN_ROWS
    assert (mixing.cuts * 32).astype(int).tolist() == GOLDEN_CUTS
    np.testing.assert_allclose(mixing.ratios, GOLDEN_RATIOS, rtol=1e-6)


def test_partners_are_all_rows_alike() -> None:
    rows = draw_mixing(1.0, None, keys(4000), num_rows=10, size=32).rows
    assert stats.chisquare(np.bincount(rows, minlength=10)).pvalue > 1e-3


def test_a_sample_is_drawn_alone_as_in_company() -> None:
    together = draw_mixing(0.4, 1.0, keys(50), num_rows=77, size=24)
    for i in range(50):
        alone = draw_mixing(0.4, 1.0, keys(50)[i : i + 1], num_rows=77, size=24)
        assert (alone.rows[0], alone.ratios[0]) == (together.rows[i], together.ratios[i])
        assert (alone.cuts[0] == together.cuts[i]).all()


def test_the_ratio_is_the_area_that_is_left() -> None:
    mixing = draw_mixing(None, 1.0, keys(300), num_rows=9, size=32)
    left, top, right, bottom = (mixing.cuts * 32).round().T
    assert ((mixing.cuts >= 0) & (mixing.cuts <= 1)).all()
    np.testing.assert_allclose(mixing.ratios, 1 - (right - left) * (bottom - top) / 32**2, atol=1e-7)
    assert 0.5 < mixing.ratios.mean() < 0.8  # clipping leaves more than half


def test_both_kinds_come_as_often() -> None:
    cut = draw_mixing(1.0, 1.0, keys(2000), num_rows=9, size=64).cuts.any(1)
    assert abs(cut.mean() - 0.5) < 0.05


def test_inputs_are_blended_or_cut_as_the_numbers_say() -> None:
    inputs, partners = torch.randn(3, 2, 8, 8), torch.randn(3, 2, 8, 8)
    cuts = np.zeros((3, 4), np.float32)
    cuts[1] = [0.25, 0, 1, 0.5]
    mixing = Mixing(rows=np.zeros(3, np.int64), ratios=np.array([0.3, 0.625, 1.0], np.float32), cuts=cuts)
    mixed = mix(inputs, partners, mixing)
    torch.testing.assert_close(mixed[0], inputs[0] * 0.3 + partners[0] * 0.7)
    expected = inputs[1].clone()
    expected[:, :4, 2:] = partners[1, :, :4, 2:]
    assert torch.equal(mixed[1], expected)
    assert torch.equal(mixed[2], inputs[2])
