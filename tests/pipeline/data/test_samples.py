"""What every data set gives: ids, labels and counts by position, selections, and the long tail."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.data import ArrayItems, LongTail, Samples, load_data
from kdpipe.stores.errors import UsageError

BALANCED = np.arange(100).repeat(500)


def tiny(**changes: object) -> Samples:
    fields = {
        "spec": "tiny,token=abc",
        "items": ArrayItems(np.arange(24, dtype=np.uint8).reshape(6, 2, 2)),
        "indices": np.arange(6),
        "sample_ids": pa.array([f"s{i}" for i in range(6)]),
        "labels": np.array([0, 1, 2, 0, 1, 0]),
        "class_names": ("a", "b", "c"),
    }
    return Samples(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


# --- long tail


@pytest.mark.parametrize(
    ("imbalance", "images", "smallest", "by_third"),
    [
        (10, 19_573, 50, (11_638, 5_498, 2_437)),
        (20, 15_907, 25, (10_575, 3_955, 1_377)),
        (50, 12_608, 10, (9_386, 2_572, 650)),
        (100, 10_847, 5, (8_615, 1_864, 368)),
    ],
)
def test_the_long_tail_has_the_sizes_of_the_published_recipe(
    imbalance: int, images: int, smallest: int, by_third: tuple[int, int, int]
) -> None:
    kept = LongTail(imbalance=imbalance, max_per_class=500).select(BALANCED, 100)
    counts = np.bincount(BALANCED[kept], minlength=100)
    assert counts.tolist() == [int(500 * (1 / imbalance) ** (c / 99)) for c in range(100)]
    assert (counts.sum(), counts.min(), counts.max()) == (images, smallest, 500)
    assert (counts[:33].sum(), counts[33:67].sum(), counts[67:].sum()) == by_third


@given(
    available=st.lists(st.integers(1, 60), min_size=2, max_size=12),
    imbalance=st.floats(1, 1e6),
    largest=st.none() | st.integers(1, 80),
    seed=st.integers(0, 2**32),
)
def test_the_long_tail_keeps_positions_in_order_and_at_least_one_of_each_class(
    available: list[int], imbalance: float, largest: int | None, seed: int
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(available)), available))
    tail = LongTail(imbalance=imbalance, max_per_class=largest, seed=seed)
    kept = tail.select(labels, len(available))
    assert np.array_equal(kept, np.unique(kept))
    assert np.array_equal(kept, tail.select(labels, len(available)))
    counts = np.bincount(labels[kept], minlength=len(available))
    assert counts.min() >= 1
    assert (counts <= available).all()
    wanted = tail.class_sizes(np.full(len(available), 10**9))
    assert (np.diff(wanted) <= 0).all()


def test_another_seed_keeps_others_and_the_ids_stay() -> None:
    whole = load_data("digits")
    first = load_data("digits,imbalance=20,seed=1")
    assert first.sample_ids.equals(load_data("digits,imbalance=20,seed=1").sample_ids)
    second = load_data("digits,imbalance=20,seed=2")
    assert first.class_counts.tolist() == second.class_counts.tolist()
    assert not first.sample_ids.equals(second.sample_ids)
    place = {sample_id: position for position, sample_id in enumerate(whole.sample_ids.to_pylist())}
    positions = np.array([place[sample_id] for sample_id in first.sample_ids.to_pylist()])
    np.testing.assert_array_equal(first.labels, whole.labels[positions])
    assert all(first.raw(i).equal(whole.raw(int(positions[i]))) for i in range(0, len(first), 20))
    assert first.long_tail == LongTail(imbalance=20, seed=1)
    assert first.info().long_tail == {"imbalance": 20.0, "max_per_class": None, "seed": 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("imbalance=0.5", "at least 1"),
        ("imbalance=nan", "at least 1"),
        ("imbalance=inf", "at least 1"),
        ("imbalance=many", "a number"),
        ("max_per_class=0", "at least 1"),
        ("seed=-1", "0 or above"),
        (
            "imbalence=10",
            r"Did you mean 'imbalance'\? Known: class_map, imbalance, max_per_class, seed, split\.",
        ),
    ],
)
def test_a_long_tail_that_cannot_be_is_refused(options: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        load_data(f"digits,{options}")


# --- samples


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": np.array([], np.int64)}, "is empty"),
        ({"labels": np.array([0, 1])}, "6 samples, 2 labels and 6 sample ids"),
        ({"sample_ids": pa.array(["x"] * 6)}, "sample id 'x' more than once"),
        ({"labels": np.array([0, 0, 0, 0, 0, 3])}, "labels from 0 to 3 for 3 classes"),
        ({"labels": np.array([0, 0, 0, 0, 0, -1])}, "labels from -1 to 0"),
    ],
)
def test_samples_that_cannot_be_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        tiny(**changes)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True), st.data())
def test_a_selection_of_a_selection_keeps_everything_together(first: list[int], data: st.DataObject) -> None:
    whole = tiny()
    once = whole.select(np.array(first))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, unique=True))
    twice = once.select(np.array(second))
    expected = [first[i] for i in second]
    assert twice.sample_ids.to_pylist() == [f"s{i}" for i in expected]
    assert twice.labels.tolist() == whole.labels[expected].tolist()
    assert all(twice.raw(i).equal(whole.raw(e)) for i, e in enumerate(expected))
    assert twice.class_names == whole.class_names


def test_array_items_give_channels_first_singly_and_in_batches() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    items = ArrayItems(images)
    batch = items.batch([4, 0, 4])
    assert batch.shape == (3, 3, 4, 3)
    for row, position in enumerate((4, 0, 4)):
        np.testing.assert_array_equal(items[position].numpy(), images[position].transpose(2, 0, 1))
        assert batch[row].equal(items[position])


def test_the_record_changes_with_ids_labels_and_class_names_and_holds_no_secret() -> None:
    base = tiny().info()
    assert "abc" not in base.spec
    assert tiny().info() == base
    changed = {
        "sample_ids": tiny(sample_ids=pa.array([f"t{i}" for i in range(6)])).info(),
        "labels": tiny(labels=np.array([0, 1, 2, 0, 1, 1])).info(),
        "classes": tiny(class_names=("a", "c", "b")).info(),
    }
    for name, info in changed.items():
        differing = [f.name for f in dataclasses.fields(info) if getattr(info, f.name) != getattr(base, f.name)]
        assert differing == [name]
    order = tiny().select(np.arange(6)[::-1]).info()
    assert order.sample_ids != base.sample_ids


# --- other classes


def test_a_class_map_gives_other_classes(tmp_path: Path) -> None:
    path = tmp_path / "shapes.csv"
    path.write_text("teacher,student\n8,round\n1,straight\n0,round\n")
    digits, mapped = load_data("digits,imbalance=10"), load_data(f"digits,class_map={path},imbalance=10")
    kept = np.flatnonzero(np.isin(digits.labels, [0, 1, 8]))
    assert mapped.class_names == ("round", "straight")
    assert mapped.labels.tolist() == [int(digits.labels[at] == 1) for at in kept]
    assert mapped.sample_ids.equals(digits.sample_ids.take(pa.array(kept)))
    assert (mapped.raw(3) == digits.raw(int(kept[3]))).all()
    assert mapped.long_tail == digits.long_tail


def test_a_class_map_must_fit(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("teacher,student\n8,a\n12,b\n")
    with pytest.raises(UsageError, match="'12'"):
        load_data(f"digits,class_map={tmp_path / 'map.csv'}")
    with pytest.raises(UsageError, match="cannot be read"):
        load_data("digits,class_map=nothing.csv")
