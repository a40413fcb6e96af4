"""The comparison of two stores: the parts of the divergence add up, and are those of the definition."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kdpipe.pipeline.losses.ltkd import decompose as decompose_tensors
from kdpipe.pipeline.losses.ltkd import partition_classes
from kdpipe.pipeline.report.comparison import compare
from kdpipe.pipeline.report.divergence import decompose, log_softmax
from kdpipe.pipeline.report.store_page import store_page
from kdpipe.pipeline.report.store_report import report_store
from kdpipe.stores import MismatchError
from kdpipe.stores.codecs import FidelityTally, parse_codec
from kdpipe.stores.manifest import TeacherInfo

GROUPS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
LOGITS = arrays(np.float32, (3, 6), elements=st.floats(-30, 30, width=32))


@pytest.fixture(scope="module")
def one(teacher_says: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    return teacher_says(50, 9)


@pytest.fixture(scope="module")
def other(one: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    logits = one[0]
    return (logits + np.random.default_rng(1).normal(0, 0.7, logits.shape)).astype(np.float32)


@given(LOGITS, LOGITS, st.lists(st.integers(0, 2), min_size=6, max_size=6), st.sampled_from([0.5, 1.0, 4.0]))
def test_the_parts_add_up_to_the_whole(a: np.ndarray, b: np.ndarray, groups: list[int], temperature: float) -> None:
    log_p, log_q = log_softmax(a, temperature), log_softmax(b, temperature)
    parts = decompose(log_p, log_q, np.array(groups))
    whole = (np.exp(log_p) * (log_p - log_q)).sum(1)
    np.testing.assert_allclose(parts.cross + parts.within.sum(1), whole, rtol=1e-9, atol=1e-10)
    assert (parts.cross >= -1e-10).all()
    assert (parts.within >= -1e-10).all()


def test_the_parts_are_those_of_the_loss() -> None:
    """Golden values of docs/losses.md's LTKD, T = 1."""
    teacher = np.array([[4, 1, 2, 0, -1, 0.5], [1, 3, 0, 2, 0, -2]])
    student = np.array([[2, 0, 1, 1, 0, 0], [0, 1, 1, 0, -1, 0]], float)
    groups = np.array([0, 0, 1, 1, 2, 2])
    parts = decompose(log_softmax(teacher, 1), log_softmax(student, 1), groups)
    np.testing.assert_allclose(parts.cross, [0.2265902654, 0.1832480730], atol=1e-9)
    np.testing.assert_allclose(parts.cross + parts.within.sum(1), [0.2998570753, 0.4747562609], atol=1e-9)
    partition = partition_classes(torch.from_numpy(groups))
    terms = decompose_tensors(torch.from_numpy(student), torch.from_numpy(teacher), partition)
    np.testing.assert_allclose(parts.within, (terms.log_teacher.exp() * terms.within).numpy(), atol=1e-12)


def test_two_teachers(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], other: np.ndarray, make_store: Callable[..., Any],
    probabilities: Callable[..., np.ndarray],
) -> None:  # fmt: skip
    logits, labels = one
    stores = [make_store(tmp_path / name, values, labels) for name, values in (("a.kd", logits), ("b.kd", other))]
    found = compare(stores[0], stores[1], (1.0, 4.0))
    assert found.rows == 50
    for divergence in found.divergences:
        p, q = (probabilities(values, divergence.temperature) for values in (logits, other))
        kl = (p * np.log(p / q)).sum(1)
        mass_p, mass_q = (np.stack([v[:, g == GROUPS].sum(1) for g in range(3)], 1) for v in (p, q))
        cross = (mass_p * np.log(mass_p / mass_q)).sum(1)
        assert divergence.within is not None
        assert divergence.kl == pytest.approx(kl.mean(), rel=1e-9)
        assert divergence.cross == pytest.approx(cross.mean(), rel=1e-9)
        assert divergence.cross + sum(divergence.within.values()) == pytest.approx(divergence.kl, rel=1e-12)
        assert divergence.group_mass_error == pytest.approx(np.abs(mass_p - mass_q).max(1).mean(), rel=1e-9)
        tail = GROUPS[labels] == 2
        assert divergence.by_label["tail"] == pytest.approx((cross[tail].mean(), (kl - cross)[tail].mean()), rel=1e-9)
    assert found.same_best["all"] == pytest.approx((logits.argmax(1) == other.argmax(1)).mean())
    best = [[set(np.argsort(-row, kind="stable")[:5]) for row in values] for values in (logits, other)]
    assert found.overlap == pytest.approx(np.mean([len(a & b) / 5 for a, b in zip(*best, strict=True)]))
    assert found.largest_difference == pytest.approx(np.abs(logits - other).max())


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_a_codec_costs_what_its_fidelity_says(
    codec: str, tmp_path: Path, one: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    plain = make_store(tmp_path / "plain.kd", *one)
    coded = make_store(tmp_path / "coded.kd", *one, codec=codec, arrays=("logits",))
    found = compare(plain, coded, (1.0, 4.0))
    tally = FidelityTally(parse_codec(codec), GROUPS)
    tally.add(one[0])
    fidelity = tally.result()
    assert found.same_teacher
    assert found.codecs == ("float32", codec)
    for divergence in found.divergences:
        assert divergence.kl == pytest.approx(fidelity.kl[divergence.temperature], rel=1e-6, abs=1e-9)
        error = fidelity.group_mass_error[divergence.temperature]
        assert divergence.group_mass_error == pytest.approx(error, rel=1e-5, abs=1e-9)
    assert found.ties is not None
    assert found.ties[1] == pytest.approx(fidelity.adjacent_ties)
    assert found.rank_correlation == pytest.approx(fidelity.rank_correlation)
    assert 1 - found.same_best["all"] == pytest.approx(fidelity.top1_flips)


@pytest.mark.parametrize(
    ("fields", "what", "notice"),
    [
        ({}, "what differs is what storing costs (float32 against int8)", None),
        ({"spec": "folder:elsewhere"}, "what differs is what storing costs", None),  # the digests agree
        ({"digest": "blake2b:01"}, "other inputs: these two do not show what storing costs", "3 had another one there"),
        ({"augmentation": {"seed": 0}}, "other augmentation: these two do not", None),
        ({"precision": "bf16"}, "other precision: these two do not", None),
        (
            {"digest": "blake2b:01", "augmentation": {"seed": 0}, "preprocessing": {"resize": 9}, "precision": "bf16"},
            "other preprocessing, augmentation and precision: these two do not",
            "They come from other preprocessing and augmentation.",
        ),
        # no digest is of a sample in both: the name of the data is all that is known
        ({"ids": [f"{n + 1:05d}" for n in range(50)], "spec": "folder:other"}, "other data: these two do not", None),
        ({"teacher": TeacherInfo(spec="t", checksum="1", num_parameters=1)}, "The other teacher is t", None),
    ],
)
def test_what_storing_costs_is_said_only_of_the_same_inputs(
    fields: dict[str, Any], what: str, notice: str | None, tmp_path: Path, one: tuple[np.ndarray, np.ndarray],
    make_store: Callable[..., Any],
) -> None:  # fmt: skip
    make_store(tmp_path / "a.kd", *one, chunk_rows=17)
    make_store(tmp_path / "b.kd", *one, codec="int8", chunk_rows=17, **fields)
    page = store_page(report_store(tmp_path / "a.kd", (1.0,), tmp_path / "b.kd"))
    assert what in page.sections[-1].text
    assert notice in page.notice if notice else page.notice == ""


def test_a_store_of_the_best_classes_tells_the_part_across_groups(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], other: np.ndarray, make_store: Callable[..., Any]
) -> None:
    logits, labels = one
    plain, whole = make_store(tmp_path / "a.kd", logits, labels), make_store(tmp_path / "b.kd", other, labels)
    top = make_store(tmp_path / "c.kd", other, labels, codec="topk:3,temperatures=1,4")
    found, expected = compare(plain, top, (1.0, 2.0, 4.0)), compare(plain, whole, (1.0, 4.0))
    assert [d.temperature for d in found.divergences] == [1.0, 4.0]
    for divergence, exact in zip(found.divergences, expected.divergences, strict=True):
        assert divergence.cross == pytest.approx(exact.cross, rel=1e-4)
        assert divergence.within is divergence.kl is None
    assert found.same_best == expected.same_best
    assert found.rank_correlation == pytest.approx(expected.rank_correlation)  # both hold all ranks
    assert found.largest_difference is None
    assert any("T = 2" in sentence for sentence in found.missing)
    assert any("all logits" in sentence for sentence in found.missing)


def test_rows_are_joined_by_sample_id(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], other: np.ndarray, make_store: Callable[..., Any]
) -> None:
    logits, labels = one
    ids = [f"{number:05d}" for number in range(50)]
    chosen = np.random.default_rng(2).permutation(50)[:30]
    plain = make_store(tmp_path / "a.kd", logits, labels, ids=ids)
    mixed = make_store(tmp_path / "b.kd", other[chosen], labels[chosen], ids=[ids[row] for row in chosen])
    kept = np.sort(chosen)
    parts = [make_store(tmp_path / name, v[kept], labels[kept]) for name, v in (("c.kd", logits), ("d.kd", other))]
    found, expected = compare(plain, mixed, (1.0,)), compare(parts[0], parts[1], (1.0,))
    assert found.rows == 30
    assert found.divergences[0].kl == pytest.approx(expected.divergences[0].kl, rel=1e-12)


def test_stores_of_ranks_have_a_rank_correlation(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], other: np.ndarray, make_store: Callable[..., Any]
) -> None:
    logits, labels = one
    stores = [make_store(tmp_path / n, v, labels, arrays=("ranks",)) for n, v in (("a.kd", logits), ("b.kd", other))]
    found = compare(stores[0], stores[1], (1.0,))
    places, other_places = (v.argsort(1).argsort(1) for v in (logits, other))
    by_hand = [np.corrcoef(places[row], other_places[row])[0, 1] for row in range(50)]
    assert found.rank_correlation == pytest.approx(np.mean(by_hand))
    assert found.divergences == ()


def test_other_classes_are_refused(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    plain = make_store(tmp_path / "a.kd", *one)
    other = make_store(tmp_path / "b.kd", *one, names=[f"other {number}" for number in range(9)])
    with pytest.raises(MismatchError, match="classes"):
        compare(plain, other, (1.0,))


def test_other_samples_are_refused(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    plain = make_store(tmp_path / "a.kd", *one)
    other = make_store(tmp_path / "b.kd", *one, ids=[f"z{number}" for number in range(50)])
    with pytest.raises(MismatchError, match="have no sample in common: ids such as '00000' and 'z0'"):
        compare(plain, other, (1.0,))


def test_other_groups_leave_no_divergence_to_a_store_of_the_best_classes(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    plain = make_store(tmp_path / "a.kd", *one)
    top = make_store(tmp_path / "b.kd", *one, codec="topk:3", groups=[0, 1, 1, 1, 1, 1, 1, 1, 2])
    found = compare(plain, top, (1.0,))
    assert found.divergences == ()
    assert any("other class groups" in sentence for sentence in found.missing)


def test_no_part_is_below_zero(
    tmp_path: Path, one: tuple[np.ndarray, np.ndarray], make_store: Callable[..., Any]
) -> None:
    """Masses that are stored as float32 give means of a few -1e-9 nats, all of it rounding."""
    plain = make_store(tmp_path / "a.kd", *one)
    top = make_store(tmp_path / "b.kd", *one, codec="topk:3,temperatures=1,4,8,32,100")
    found = compare(plain, top, (1.0, 4.0, 8.0, 32.0, 100.0)).divergences
    assert min(part for each in found for part in (each.cross, *(cross for cross, _ in each.by_label.values()))) >= 0
