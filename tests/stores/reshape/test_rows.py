"""Rows of stores as the rows of another: subset takes any, merge puts them together again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError, MismatchError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.reshape.merge import merge
from kdpipe.stores.reshape.regroup import regroup
from kdpipe.stores.reshape.subset import Subset, parse_spans, subset

WriteStore = Callable[..., Any]
ROWS = 18
CODECS = ["float32", "int8", "topk:3", "factorised:4+zstd"]


@pytest.fixture(scope="module")
def source(write_store: WriteStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 rows of 5 classes, 2 views of 5 chunks."""
    path = tmp_path_factory.mktemp("rows") / "a.kd"
    write_store(path, ROWS, 5, 4, num_views=2)
    return path


def digests_of(path: Path, view: int) -> dict[str, str]:
    """The digests of inputs, by sample id."""
    store = open_store(path)
    ids, per_view = store.samples(["sample_id"])["sample_id"].to_pylist(), store.manifest.grid.chunks_per_view
    receipts = [store.receipt(chunk) for chunk in range(view * per_view, (view + 1) * per_view)]
    return {ids[one.row]: one.digest for receipt in receipts for one in receipt.inputs}


def check_rows(whole: Path, part: Path, rows: list[int], views: int) -> None:
    """A store has exactly these rows of another, with all that is said of them."""
    assert verify(part, deep=True).findings == ()
    theirs, ours = open_store(whole), open_store(part, verify=True)
    names = [array.name for array in theirs.manifest.arrays]
    assert len(ours) == len(rows)
    assert ours.manifest.num_views == views
    for view in range(views):
        there = theirs.read(np.array(rows), arrays=names, view=view)
        here = ours.read(np.arange(len(rows)), arrays=names, view=view)
        assert all(np.array_equal(here[name], there[name], equal_nan=True) for name in names)
        kept = theirs.samples(["sample_id"])["sample_id"].take(pa.array(rows)).to_pylist()
        known = digests_of(whole, view)
        assert digests_of(part, view) == {name: known[name] for name in kept if name in known}
    assert ours.samples().drop_columns("row").equals(theirs.samples().take(pa.array(rows)).drop_columns("row"))
    labels = ours.samples(["label"])["label"].to_numpy()
    assert ours.classes["count"].to_pylist() == np.bincount(labels, minlength=5).tolist()
    assert ours.classes["group"].equals(theirs.classes["group"])
    top1 = ours.samples(["teacher_top1"])["teacher_top1"].to_numpy()
    assert ours.manifest.accuracy is not None
    assert ours.manifest.accuracy.overall == pytest.approx((top1 == labels).mean())


SPANS = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, 5)), max_size=3).map(
    lambda pairs: tuple((first, min(first + length, ROWS - 1)) for first, length in pairs)
)


@settings(max_examples=8)
@given(
    spans=SPANS,
    labels=st.sets(st.integers(0, 4), max_size=4),
    per_class=st.none() | st.integers(1, 3),
    seed=st.integers(0, 3),
    views=st.integers(1, 2),
    chunk_rows=st.integers(1, 7),
)
def test_any_part_has_the_rows_that_all_conditions_leave(
    source: Path, tmp_path_factory: pytest.TempPathFactory, spans: Any, labels: set[int], per_class: int | None,
    seed: int, views: int, chunk_rows: int,
) -> None:  # fmt: skip
    wanted = Subset(
        rows=spans, labels=tuple(f"class {label}" for label in labels), per_class=per_class, seed=seed, views=views
    )
    left = [
        row for row in range(ROWS)
        if (not spans or any(first <= row <= last for first, last in spans)) and (not labels or row % 5 in labels)
    ]  # fmt: skip
    out = tmp_path_factory.mktemp("part") / "b.kd"
    if not left or (not spans and not labels and per_class is None and views == 2):
        with pytest.raises(UsageError, match=r"No row|Nothing is left out"):
            subset(source, out, wanted, chunk_rows=chunk_rows)
        assert not out.exists()
        return
    made = subset(source, out, wanted, chunk_rows=chunk_rows)
    rows = [int(name[7:13]) for name in open_store(out).samples(["sample_id"])["sample_id"].to_pylist()]
    assert rows == sorted(set(rows)), "the store's order"
    assert set(rows) <= set(left)
    for label in range(5):
        available = sum(row % 5 == label for row in left)
        assert sum(row % 5 == label for row in rows) == min(available, per_class or available)
    check_rows(source, out, rows, views)
    assert made.chunk_rows == min(chunk_rows, len(rows))
    assert made.parents[0].store_id == open_store(source).manifest.store_id


def test_a_draw_depends_on_its_seed_alone(source: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 3)):
        subset(source, tmp_path / name, Subset(per_class=1, seed=seed))
        drawn.append(tuple(open_store(tmp_path / name).samples(["sample_id"])["sample_id"].to_pylist()))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_ids_from_a_file(source: Path, tmp_path: Path, kind: str) -> None:
    ids = [f"images/{row:06d}.png" for row in (11, 2, 7)]
    file = tmp_path / f"ids.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"sample_id": ids, "note": ["", "", ""]}), file)
    else:
        file.write_text("\n".join((["sample_id"] if kind == "csv" else []) + ids) + "\n")
    subset(source, tmp_path / "b.kd", Subset(ids=file))
    check_rows(source, tmp_path / "b.kd", [2, 7, 11], 2)


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        ({"rows": ((3, 18),)}, UsageError, "rows 0 to 17"),
        ({"labels": ("clas 1",)}, UsageError, "Did you mean 'class 1'"),
        ({"labels": ("7",)}, UsageError, "Unknown class"),
        ({"per_class": 0}, UsageError, "at least 1"),
        ({"views": 3}, UsageError, "2 view"),
        ({"ids": Path("ids.txt")}, UsageError, "cannot be read"),
        ({"classes": ("0",)}, UsageError, "at least two classes"),
        ({"classes": ("0", "class 0", "1")}, MismatchError, "--drop-others"),
        ({"classes": ("0", "1"), "labels": ("3",), "drop_others": True}, UsageError, "No sample"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    source: Path, tmp_path: Path, wanted: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        subset(source, tmp_path / "b.kd", Subset(**wanted))
    assert not (tmp_path / "b.kd").exists()


def test_ids_that_are_not_there_are_named(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("images/000001.png\nimages/1.png\n", encoding="utf-8-sig")
    with pytest.raises(MismatchError, match=r"1 of the 2 .*'images/1.png'.*'images/000000.png'"):
        subset(source, tmp_path / "b.kd", Subset(ids=file))


def test_spans_as_they_are_typed() -> None:
    assert parse_spans("0-9, 12,20-20") == ((0, 9), (12, 12), (20, 20))
    for text in ("", "9-3", "a", "1-", "-3", "1--2"):
        with pytest.raises(UsageError, match="span"):
            parse_spans(text)


@settings(max_examples=5)
@given(cuts=st.sets(st.integers(1, ROWS - 1), min_size=1, max_size=3), chunk_rows=st.integers(1, 7))
def test_the_parts_of_a_store_merge_into_it(
    source: Path, tmp_path_factory: pytest.TempPathFactory, cuts: set[int], chunk_rows: int
) -> None:
    root, edges = tmp_path_factory.mktemp("merge"), [0, *sorted(cuts), ROWS]
    parts = [root / f"{first}.kd" for first in edges[:-1]]
    for path, first, stop in zip(parts, edges[:-1], edges[1:], strict=True):
        subset(source, path, Subset(rows=((first, stop - 1),)), chunk_rows=3)
    made = merge(parts, root / "all.kd", chunk_rows=4)
    check_rows(source, root / "all.kd", list(range(ROWS)), 2)
    for file in (source / "payload.zarr").rglob("c/*/*/0"):
        assert file.read_bytes() == (root / "all.kd" / file.relative_to(source)).read_bytes()
    whole = open_store(source).manifest
    assert made.dataset == whole.dataset
    assert [parent.store_id for parent in made.parents] == [open_store(path).manifest.store_id for path in parts]
    assert [parent.parents[0].store_id for parent in made.parents] == [whole.store_id] * len(parts)
    assert merge(parts, root / "all.kd", chunk_rows=4) == made
    with pytest.raises(MismatchError, match="parents"):
        merge([*parts[1:], parts[0]], root / "all.kd", chunk_rows=4)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_subset_and_merged_as_it_is(write_store: WriteStore, tmp_path: Path, codec: str) -> None:
    write_store(tmp_path / "a.kd", ROWS, 5, 4, codec=None if codec == "float32" else codec, dtype="float32")
    for name, span in (("b.kd", (0, 6)), ("c.kd", (7, 17))):
        subset(tmp_path / "a.kd", tmp_path / name, Subset(rows=(span,)), chunk_rows=3)
    merge([tmp_path / "b.kd", tmp_path / "c.kd"], tmp_path / "d.kd", chunk_rows=5)
    check_rows(tmp_path / "a.kd", tmp_path / "d.kd", list(range(ROWS)), 1)


def second(content: Callable[..., Any], path: Path, **fields: Any) -> None:
    """A store of other samples than those of ``source``, and of other settings where they are given."""
    made = content(7, 5, 4, num_views=2)
    ids = [f"others/{row}.png" for row in range(7)]
    samples = made.samples.set_column(1, made.samples.schema.field(1), pa.array(ids))
    manifest = dataclasses.replace(made.manifest, store_id="", **fields)
    dataclasses.replace(made, samples=samples, manifest=manifest).write(path).finish()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"precision": "bf16"}, "differ in precision"),
        ({"preprocessing": {"resize": 224}}, "differ in preprocessing"),
        ({"teacher": "sha256:11"}, "differ in teacher"),
        ({"dataset": "sha256:22"}, "differ in classes"),
    ],
)
def test_stores_that_differ_in_more_than_rows_are_not_merged(
    source: Path, content: Callable[..., Any], tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    manifest = content(7, 5, 4).manifest
    if "teacher" in fields:
        fields = {"teacher": dataclasses.replace(manifest.teacher, checksum=fields["teacher"])}
    if "dataset" in fields:
        fields = {"dataset": dataclasses.replace(manifest.dataset, classes=fields["dataset"])}
    second(content, tmp_path / "b.kd", **fields)
    with pytest.raises(MismatchError, match=says):
        merge([source, tmp_path / "b.kd"], tmp_path / "c.kd")
    assert not (tmp_path / "c.kd").exists()


def test_stores_that_share_samples_are_not_merged(source: Path, tmp_path: Path) -> None:
    subset(source, tmp_path / "b.kd", Subset(rows=((0, 7),)))
    subset(source, tmp_path / "c.kd", Subset(rows=((7, 9),)))
    says = r"share 1 sample\(s\), such as 'images/000007.png' \(row 7 of .*b.kd and row 0 of .*c.kd\).*,id=COLUMN"
    with pytest.raises(MismatchError, match=says):
        merge([tmp_path / "b.kd", tmp_path / "c.kd"], tmp_path / "d.kd")


def test_one_store_or_an_unfinished_one_is_not_merged(
    source: Path, content: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="two stores"):
        merge([source], tmp_path / "c.kd")
    content(7, 5, 4).write(tmp_path / "b.kd", [0])
    with pytest.raises(RefusedError, match="not finished"):
        merge([source, tmp_path / "b.kd"], tmp_path / "c.kd")
    with pytest.raises(UsageError, match="never changes"):
        merge([source, source], source)
    with pytest.raises(CorruptStoreError):
        merge([source, tmp_path / "nothing.kd"], tmp_path / "c.kd")


@pytest.mark.parametrize("codec", [None, "topk:3"])
def test_groups_that_differ_are_asked_for(write_store: WriteStore, tmp_path: Path, codec: str | None) -> None:
    parts = [tmp_path / "b.kd", tmp_path / "c.kd"]
    write_store(tmp_path / "a.kd", ROWS, 5, 4, codec=codec)
    subset(tmp_path / "a.kd", parts[0], Subset(labels=("0", "1")))
    subset(tmp_path / "a.kd", parts[1], Subset(labels=("2", "3", "4")))
    if codec is None:
        regroup(parts[1], tmp_path / "d.kd", "counts:3,1")
        parts[1] = tmp_path / "d.kd"
        with pytest.raises(MismatchError, match="--groups thirds"):
            merge(parts, tmp_path / "e.kd")
        made = merge(parts, tmp_path / "e.kd", groups="counts:3,1")
        assert verify(tmp_path / "e.kd", deep=True).findings == ()
        merged = open_store(tmp_path / "e.kd")
        assert made.group_rule == "counts:3,1"
        assert merged.classes["group"].to_pylist() == ["head", "head", "head", "medium", "medium"]
    else:
        with pytest.raises(RefusedError, match="sums over the groups"):
            merge(parts, tmp_path / "e.kd", groups="counts:3,1")
        assert merge(parts, tmp_path / "e.kd").group_rule == "thirds"
