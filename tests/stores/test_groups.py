"""Head, medium and tail: the rules give the published sizes, and files are read by name or number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores.errors import UsageError
from kdpipe.stores.groups import assign_groups, group_names
from kdpipe.stores.tables import classes_table

NAMES = ["cat", "dog", "emu", "fox"]
GROUPS = ["tail", "head", "medium", "head"]


def groups_of(rule: str, names: list[str] = NAMES) -> list[str]:
    groups, _ = assign_groups(rule, np.ones(len(names), np.int64), names)
    return group_names(groups)


@pytest.mark.parametrize(
    ("num_classes", "sizes"),
    [
        (100, [33, 34, 33]),
        (200, [66, 68, 66]),
        (1000, [330, 340, 330]),
        (2, [1, 0, 1]),
        (3, [1, 1, 1]),
        (6, [2, 2, 2]),
        (10, [3, 4, 3]),
    ],
)
def test_thirds_have_the_sizes_of_the_paper(num_classes: int, sizes: list[int]) -> None:
    counts = np.random.default_rng(0).permutation(np.arange(num_classes) + 5)
    groups, rule = assign_groups("thirds", counts, [str(c) for c in range(num_classes)])
    assert rule == "thirds"
    assert groups.dtype == np.int64
    assert np.bincount(groups, minlength=3).tolist() == sizes
    assert counts[groups == 0].min() > counts[groups != 0].max()
    assert counts[groups == 2].max() < counts[groups != 2].min()


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40))
def test_thirds_are_ordered_and_ties_go_by_class_number(counts: list[int]) -> None:
    groups, _ = assign_groups("thirds", np.array(counts), [str(c) for c in range(len(counts))])
    order = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    assert groups[order].tolist() == sorted(groups.tolist())


def test_counts_take_the_limits_into_the_medium_group() -> None:
    counts = np.array([1000, 101, 100, 50, 20, 19, 0])
    groups, rule = assign_groups("counts:100,20", counts, list("abcdefg"))
    assert group_names(groups) == ["head", "head", "medium", "medium", "medium", "tail", "tail"]
    assert rule == "counts:100,20"
    assert group_names(assign_groups("counts:20,20", counts, list("abcdefg"))[0])[3:6] == ["head", "medium", "tail"]


def test_single_puts_all_classes_into_one_group() -> None:
    groups, rule = assign_groups("single", np.array([9, 0, 1]), list("abc"))
    assert (group_names(groups), rule) == (["head"] * 3, "single")


@pytest.mark.parametrize("rule", ["counts:100", "counts:100,20,5", "counts:a,b", "counts:", "counts", "counts:20,100"])
def test_malformed_counts_are_refused(rule: str) -> None:
    with pytest.raises(UsageError, match="counts:100,20"):
        assign_groups(rule, np.ones(3), list("abc"))


@pytest.mark.parametrize("rule", ["third", "thirds:3", "groups.txt"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown group rule '{rule}'"):
        assign_groups(rule, np.ones(3), list("abc"))
    with pytest.raises(UsageError, match="Did you mean 'thirds'"):
        assign_groups("third", np.ones(3), list("abc"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
@pytest.mark.parametrize("by", ["name", "number"])
def test_a_file_gives_groups_by_name_or_number_in_any_order(tmp_path: Path, suffix: str, by: str) -> None:
    classes = NAMES if by == "name" else range(4)
    rows = list(zip(classes, GROUPS, strict=True))[::-1]
    path = tmp_path / f"groups{suffix}"
    if suffix == ".parquet":
        table = pa.table({"note": ["x"] * 4, "class": [row[0] for row in rows], "group": [row[1] for row in rows]})
        pq.write_table(table, path)
    else:
        path.write_text("group,class\n" + "".join(f"{group},{name}\n" for name, group in rows))
    assert groups_of(str(path)) == GROUPS
    assert groups_of(f"file:{path}") == GROUPS


@pytest.mark.parametrize("names", [NAMES, ["0", "01", "true", "null"]])
def test_the_classes_of_another_store_give_its_groups(tmp_path: Path, names: list[str]) -> None:
    pq.write_table(classes_table(names, [3, 9, 5, 7], GROUPS), tmp_path / "classes.parquet")
    assert groups_of(str(tmp_path / "classes.parquet"), names) == GROUPS


def test_the_recorded_rule_names_the_file_and_what_it_said(tmp_path: Path) -> None:
    path, other = tmp_path / "a.csv", tmp_path / "b" / "a.csv"
    other.parent.mkdir()
    path.write_text("class,group\na,head\nb,tail\n")
    other.write_text("class,group\na,tail\nb,head\n")
    rules = [assign_groups(str(p), np.ones(2), ["a", "b"])[1] for p in (path, other, path)]
    assert rules[0].startswith("file:a.csv#")
    assert str(tmp_path) not in rules[0]
    assert rules[0] == rules[2] != rules[1]


def test_class_names_that_look_like_numbers_or_words_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("class,group\n01,head\n02,medium\n03,tail\n")
    assert groups_of(str(path), ["01", "02", "03"]) == ["head", "medium", "tail"]
    path.write_text("class,group\ntrue,head\nfalse,medium\n")
    assert groups_of(str(path), ["true", "false"]) == ["head", "medium"]
    path.write_text("class,group\n2,head\n1,medium\n0,tail\n")
    assert groups_of(str(path), ["2", "1", "0"]) == ["head", "medium", "tail"], "a name goes before a number"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("class,group\ncat,head\ndog,tail\nfox,tail\n", "leaves out 1 classes, the first is 'emu'"),
        ("class,group\ncatt,head\n", "class in .*'catt'. Did you mean 'cat'"),
        ("class,group\n7,head\n", "class in .*'7'"),
        ("class,group\ncat,haed\n", "group in .*'haed'. Did you mean 'head'"),
        ("class,group\ncat,head\ncat,tail\n", "'cat' into two groups"),
        ("animal,group\ncat,head\n", "needs columns class .or name. and group"),
        ("", "needs columns class .or name. and group"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "g.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=reason):
        groups_of(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.parquet cannot be read: there is no such file\.$"):
        groups_of(str(tmp_path / "nowhere.parquet"))
    (tmp_path / "g.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match=r"g\.parquet cannot be read"):
        groups_of(str(tmp_path / "g.parquet"))
