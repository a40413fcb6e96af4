"""A class map against an oracle: merged probabilities are sums, selected ones are conditional, ranks and labels follow."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdpipe.stores import BadLogitsError, MismatchError, MissingArrayError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.content import labels_fingerprint
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.manifest import fingerprint
from kdpipe.stores.reshape.class_map import ClassMap, class_numbers
from kdpipe.stores.reshape.columns import merged_logits
from kdpipe.stores.reshape.map_classes import map_classes
from kdpipe.stores.reshape.subset import Subset, subset

WriteStore = Callable[..., Any]
NAMES = [f"class {number}" for number in range(6)]
# half a unit in the last place of float32, and what the float64 sum itself may be off by
ONCE_ROUNDED = 2.0**-24 * (1 + 1e-6)


@st.composite
def class_maps(draw: st.DrawFn, num_old: int = 6) -> ClassMap:
    """Any number of the old classes, in any order, in at least two new ones."""
    taken = draw(st.permutations(range(num_old)))[: draw(st.integers(2, num_old))]
    cuts = sorted(draw(st.sets(st.integers(1, len(taken) - 1), min_size=1)))
    members = [tuple(taken[a:b]) for a, b in zip([0, *cuts], [*cuts, len(taken)], strict=True)]
    names = tuple(f"new {number}" for number in range(len(members)))
    return ClassMap(num_old=num_old, names=names, members=tuple(members))


def write_map(class_map: ClassMap, path: Path, old_names: Sequence[str] = NAMES) -> Path:
    """As a file."""
    pairs = [
        (old_names[old], new) for new, olds in zip(class_map.names, class_map.members, strict=True) for old in olds
    ]
    path.write_text("teacher,student\n" + "".join(f"{old},{new}\n" for old, new in pairs))
    return path


def probabilities(logits: Sequence[float]) -> list[float]:
    """The softmax, in Python's floats, summed exactly."""
    highest = max(logits)
    weights = [math.exp(value - highest) for value in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def summed(row: Sequence[float], class_map: ClassMap) -> list[float]:
    """The probabilities of the new classes: sums of the old ones', given that one of those taken is meant."""
    old = probabilities([row[column] for members in class_map.members for column in members])
    parts, start = [], 0
    for members in class_map.members:
        parts.append(math.fsum(old[start : start + len(members)]))
        start += len(members)
    return parts


ROW = st.lists(st.floats(-60, 60, width=16), min_size=6, max_size=6)


@settings(max_examples=200)
@given(class_map=class_maps(), row=ROW)
def test_probabilities_of_merged_classes_add_up(class_map: ClassMap, row: list[float]) -> None:
    logits = merged_logits(np.array([row]), class_map)
    assert logits.dtype == np.float32
    # each logit is off by at most e, hence each log probability by at most 2 e
    most = 2 * ONCE_ROUNDED * float(np.abs(logits).max()) + 1e-12
    for found, expected in zip(probabilities(logits[0].tolist()), summed(row, class_map), strict=True):
        assert abs(math.log(found) - math.log(expected)) <= most
    for logit, members in zip(logits[0].tolist(), class_map.members, strict=True):
        if len(members) == 1:
            assert logit == row[members[0]], "a class that is kept keeps its logit"


@settings(max_examples=12)
@given(
    class_map=class_maps(), codec=st.sampled_from([None, "int8", "float32", "factorised:1", "factorised:4", "int8+zstd"]),
    depth=st.none() | st.integers(1, 5), seed=st.integers(0, 99), drop=st.booleans(),
)  # fmt: skip
def test_a_mapped_store_is_what_the_teacher_says_of_the_new_classes(
    write_store: WriteStore, tmp_path_factory: pytest.TempPathFactory, class_map: ClassMap, codec: str | None,
    depth: int | None, seed: int, drop: bool,
) -> None:  # fmt: skip
    root = tmp_path_factory.mktemp("map")
    dtype, coding = ("float32", None) if codec == "float32" else ("float16", codec)
    write_store(root / "a.kd", 13, 6, 4, num_views=2, dtype=dtype, codec=coding, rank_depth=depth, seed=seed)
    old, path = open_store(root / "a.kd"), write_map(class_map, root / "map.csv")
    labels = np.arange(13) % 6
    kept = np.flatnonzero(class_map.new_class[labels] >= 0)
    if len(kept) < 13 and not drop:
        with pytest.raises(MismatchError, match="--drop-others"):
            map_classes(root / "a.kd", root / "b.kd", path)
        return
    made = map_classes(root / "a.kd", root / "b.kd", path, drop_others=drop, chunk_rows=5)
    new = open_store(root / "b.kd", verify=True)
    assert verify(root / "b.kd", deep=True).errors == (), "two classes that are kept may well be equal: a warning"

    new_labels = class_map.new_class[labels[kept]]
    assert new.class_names == list(class_map.names)
    assert new.samples(["label"])["label"].to_pylist() == new_labels.tolist()
    assert new.classes["count"].to_pylist() == np.bincount(new_labels, minlength=len(class_map.names)).tolist()
    groups = new.classes["group"].to_pylist()
    assert new.samples(["group"])["group"].to_pylist() == [groups[label] for label in new_labels]
    assert (made.dataset.classes, made.dataset.labels) == (fingerprint(class_map.names), labels_fingerprint(new_labels))
    for view in range(2):
        check_view(old, new, class_map, kept, view)


def check_view(old: Any, new: Any, class_map: ClassMap, kept: np.ndarray, view: int) -> None:
    there = old.read(kept, arrays=("logits", "ranks"), view=view)
    here = new.read(np.arange(len(kept)), arrays=("logits", "ranks"), view=view)
    logits = here["logits"].astype(np.float64)
    depth = min(old.require("ranks").width, len(class_map.names))
    assert here["ranks"].shape == (len(kept), depth)
    samples = new.samples()
    exact = np.array([[logsum(row, members) for members in class_map.members] for row in there["logits"].astype(float)])
    bound = 1e-5 * (1 + np.abs(exact)) if new.manifest.logit_codec.name == "factorised" else new_bound(new, exact)
    assert (np.abs(logits - exact) <= bound).all()
    for i, (row, ranks, old_ranks) in enumerate(zip(exact, here["ranks"], there["ranks"].tolist(), strict=True)):
        expected = summed(there["logits"][i].astype(float).tolist(), class_map)
        found = probabilities(logits[i].tolist())
        assert np.allclose(np.log(found), np.log(expected), rtol=0, atol=2 * float(bound[i].max()) + 1e-9)
        place = {label: at for at, label in enumerate(old_ranks)}
        sums_again = old.manifest.logit_codec.name == "factorised" != new.manifest.logit_codec.name
        if class_map.is_selection and len(place) == class_map.num_old and not sums_again:
            best = sorted(range(len(row)), key=lambda new_class: place[class_map.members[new_class][0]])
            assert ranks.tolist() == best[:depth], "the teacher's order among those that are kept"
        if view == 0:
            assert samples["teacher_top1"][i].as_py() == ranks[0]
            confidence = samples["teacher_confidence"][i].as_py()
            assert confidence == pytest.approx(max(expected), rel=1e-4)
            entropy = -sum(p * math.log(p) for p in expected if p > 0)
            assert samples["teacher_entropy"][i].as_py() == pytest.approx(entropy, rel=1e-3, abs=1e-5)


def logsum(row: np.ndarray, members: Sequence[int]) -> float:
    highest = max(row[member] for member in members)
    return highest + math.log(math.fsum(math.exp(row[member] - highest) for member in members))


def new_bound(new: Any, exact: np.ndarray) -> np.ndarray:
    """By how much a stored logit may be off: float32, then the codec."""
    rounded = exact.astype(np.float32)
    return new.manifest.logit_codec.error_bound(rounded, {}) + ONCE_ROUNDED * np.abs(exact) + 1e-12


@pytest.mark.parametrize(
    ("codec", "dtype", "members", "wanted", "result"),
    [
        (None, "float16", [[0], [1, 2]], None, "float16"),
        (None, "float32", [[0], [1, 2]], None, "float32"),
        ("int8", "float16", [[0], [1]], None, "float16"),
        ("int8+zstd", "float16", [[0], [1]], None, "float16+zstd"),
        ("factorised:2", "float16", [[0], [1], [4]], None, "factorised:2"),
        ("factorised:2", "float16", [[0], [1]], None, "float16"),
        ("factorised:2", "float16", [[0, 1], [2], [3]], None, "float16"),
        (None, "float32", [[0], [1, 2]], "int8", "int8"),
        (None, "float32", [[0], [1, 2], [3]], "topk:2", "topk:2,temperatures=1,4"),
    ],
)
def test_the_codec_of_a_mapped_store(
    write_store: WriteStore, tmp_path: Path, codec: str | None, dtype: str, members: list[list[int]],
    wanted: str | None, result: str,
) -> None:  # fmt: skip
    write_store(tmp_path / "a.kd", 13, 6, 4, dtype=dtype, codec=codec)
    new = ClassMap(num_old=6, names=tuple("xyz"[: len(members)]), members=tuple(map(tuple, members)))
    path = write_map(new, tmp_path / "map.csv")
    made = map_classes(tmp_path / "a.kd", tmp_path / "b.kd", path, codec=wanted, drop_others=True)
    assert str(made.logit_codec) == result
    assert verify(tmp_path / "b.kd", deep=True).findings == ()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"codec": "topk:3"}, MissingArrayError, "all logits"),
        ({"arrays": ("ranks",)}, MissingArrayError, "all logits"),
        ({"group_rule": "file:groups.csv#00"}, UsageError, "--groups thirds"),
    ],
)
def test_stores_that_cannot_be_mapped(
    write_store: WriteStore, tmp_path: Path, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    write_store(tmp_path / "a.kd", 13, 6, 4, **settings)
    path = tmp_path / "map.csv"
    path.write_text("teacher,student\n" + "".join(f"{number},{number % 2}\n" for number in range(6)))
    with pytest.raises(error, match=says):
        map_classes(tmp_path / "a.kd", tmp_path / "b.kd", path)


def test_features_cannot_be_had_of_logits_and_float16_overflows(write_store: WriteStore, tmp_path: Path) -> None:
    made = write_store(tmp_path / "a.kd", 13, 6, 4, dtype="float32")
    path = tmp_path / "map.toml"
    path.write_text('[classes]\n"a" = [0, 1, 2]\n"b" = ["class 3", 4, 5]\n')
    with pytest.raises(RefusedError, match="features, which this store does not have"):
        map_classes(tmp_path / "a.kd", tmp_path / "b.kd", path, codec="factorised:1")
    object.__setattr__(made, "logits", made.logits * np.float32(1e4))
    made.write(tmp_path / "c.kd").finish()
    with pytest.raises(BadLogitsError, match="float32"):
        map_classes(tmp_path / "c.kd", tmp_path / "b.kd", path, codec="float16")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "toml"])
def test_a_map_is_read_from_any_of_three_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"map.{suffix}"
    pairs = [("class 4", "late"), ("0", "early"), ("class 1", "early"), ("5", "late, or never")]
    if suffix == "csv":
        text = "teacher,student\n" + "".join(f'{old},"{new}"\n' for old, new in pairs)
        path.write_text(text, encoding="utf-8-sig")
    elif suffix == "parquet":
        pq.write_table(pa.table({"teacher": [p[0] for p in pairs], "student": [p[1] for p in pairs]}), path)
    else:
        path.write_text(
            '[classes]\nlate = ["class 4"]\nearly = [0, "class 1"]\n"late, or never" = [5]\n', encoding="utf-8-sig"
        )
    found = ClassMap.read(path, NAMES)
    assert found == ClassMap(num_old=6, names=("late", "early", "late, or never"), members=((4,), (0, 1), (5,)))


def test_a_name_that_is_a_number_wins() -> None:
    assert ClassMap.selection([0, 2], ["7", "1", "x"]).names == ("7", "x")
    assert class_numbers(["1", "7", "2"], ["7", "1", "x"], "here") == [1, 0, 2]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("map.txt", "", "none of .csv"),
        ("map.csv", "a,b\n1,2\n", "teacher and student"),
        ("map.csv", "teacher,student\n1\n", "teacher and student"),
        ("map.csv", "", "cannot be read"),
        ("map.csv", "teacher,student\nclass 9,a\n1,b\n", "Unknown class in .*map.csv 'class 9'"),
        ("map.csv", "teacher,student\n1,a\nclass 1,b\n", "'class 1' is given twice"),
        ("map.csv", "teacher,student\n1,a\n2,a\n", "at least two"),
        ("map.csv", "teacher,student\n1,a\n2,\n", "no name"),
        ("map.toml", "classes = 3", "cannot be read"),
        ("map.toml", "[classes]\na = 'class 1'\nb = [2]", "needs a list"),
        ("map.toml", "[classes]\na = []\nb = [2]", "needs a list"),
        ("map.toml", "[other]\na = [1]", "cannot be read"),
        ("map.toml", "[", "cannot be read"),
        ("missing.csv", None, r"cannot be read: there is no such file\.$"),
        ("map.parquet", "no parquet", "cannot be read"),
    ],
)
def test_maps_that_say_nothing_clear_are_refused(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        ClassMap.read(tmp_path / name, NAMES)


def test_groups_are_those_of_the_new_counts(write_store: WriteStore, tmp_path: Path) -> None:
    write_store(tmp_path / "a.kd", 14, 6, 4)  # 3, 3, 2, 2, 2, 2 samples
    path = tmp_path / "map.toml"
    path.write_text("[classes]\nx = [5]\ny = [0, 1, 2, 3]\nz = [4]\n")
    assert map_classes(tmp_path / "a.kd", tmp_path / "b.kd", path).group_rule == "thirds"
    assert open_store(tmp_path / "b.kd").classes["group"].to_pylist() == ["medium", "head", "tail"]
    map_classes(tmp_path / "a.kd", tmp_path / "c.kd", path, groups="counts:9,3")
    assert open_store(tmp_path / "c.kd").classes["group"].to_pylist() == ["tail", "head", "tail"]
    assert open_store(tmp_path / "c.kd").manifest.parents[0].change.startswith("6 classes mapped to 3 (")


@pytest.mark.parametrize("codec", ["float16", "factorised:2"])
def test_kept_classes_have_the_conditional_distribution(write_store: WriteStore, tmp_path: Path, codec: str) -> None:
    write_store(tmp_path / "a.kd", 13, 6, 4, codec=None if codec == "float16" else codec)
    made = subset(tmp_path / "a.kd", tmp_path / "b.kd", Subset(classes=("1", "4", "class 2"), drop_others=True))
    assert str(made.logit_codec) == codec
    old, new = open_store(tmp_path / "a.kd"), open_store(tmp_path / "b.kd")
    rows = np.flatnonzero(np.isin(np.arange(13) % 6, [1, 2, 4]))
    there, here = old.read(rows, arrays=("logits", "ranks")), new.read(np.arange(len(rows)), arrays=("logits", "ranks"))
    np.testing.assert_allclose(here["logits"], there["logits"][:, [1, 2, 4]], rtol=1e-5)
    order = [[{1: 0, 2: 1, 4: 2}[c] for c in row if c in (1, 2, 4)] for row in there["ranks"].tolist()]
    assert here["ranks"].tolist() == order
    assert new.class_names == ["class 1", "class 2", "class 4"]
    assert new.classes["group"].to_pylist() == [old.classes["group"][c].as_py() for c in (1, 2, 4)], "groups stay"
    for row, old_row in zip(here["logits"].astype(float), there["logits"].astype(float), strict=True):
        whole = probabilities(old_row.tolist())
        kept = [whole[c] for c in (1, 2, 4)]
        assert probabilities(row.tolist()) == pytest.approx([p / sum(kept) for p in kept], rel=1e-5)
