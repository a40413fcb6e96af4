"""Values that cannot be right are found in files whose checksums are right."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kdpipe.stores.arrays import GROUP_NAMES
from kdpipe.stores.checks.content import sample_faults
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.layout import CLASSES, MANIFEST, array_file, samples_file
from kdpipe.stores.manifest import fingerprint

from ..conftest import Content
from .test_verify import SHAPE, real_content


def with_column(content: Content, name: str, change: Callable[[np.ndarray], None]) -> Content:
    """The content with changed values in one column of the samples."""
    values = np.array(content.samples[name].to_pylist())
    change(values)
    place = content.samples.schema.get_field_index(name)
    field = content.samples.schema.field(name)
    return dataclasses.replace(
        content, samples=content.samples.set_column(place, field, pa.array(values.tolist(), field.type))
    )


def test_ties_after_rounding_are_no_contradiction(tmp_path):
    content = real_content(*SHAPE)
    logits = 100 + content.logits / 1000  # float16 makes most of them equal
    order = np.argsort(-logits, axis=2, kind="stable")
    top1 = order[0, :, 0]
    made = dataclasses.replace(content, logits=logits, ranks=order)
    made = with_column(made, "teacher_top1", lambda v: v.__setitem__(slice(None), top1))
    labels = content.samples["label"].to_numpy()
    made = with_column(made, "teacher_correct", lambda v: v.__setitem__(slice(None), top1 == labels))
    made.write(tmp_path / "a.kd").finish()
    assert np.mean(np.diff(np.sort(logits.astype(np.float16), axis=2), axis=2) == 0) > 0.5
    report = verify(tmp_path / "a.kd", deep=True)
    assert report.errors == ()


def deep_findings(content: Content, path: Path) -> list[tuple[str, str]]:
    content.write(path).finish()
    return [(finding.path, finding.problem) for finding in verify(path, deep=True).errors]


def set_(place: Any, value: Any) -> Callable[[np.ndarray], None]:
    return lambda values: values.__setitem__(place, value)


@pytest.mark.parametrize(
    ("column", "change", "problem"),
    [
        ("row", set_(5, 6), "the row number is another in 1 row (first: row 5)"),
        ("label", set_(5, 5), "the label is no class"),
        ("label", set_(5, -1), "the label is no class"),
        ("group", set_(5, "tail"), "the group is not that of the label's class"),
        ("teacher_top1", set_(5, 5), "teacher_top1 is no class"),
        ("teacher_correct", lambda v: np.logical_not(v, out=v), "teacher_correct does not say"),
        ("teacher_confidence", set_(5, 1.5), "teacher_confidence is no probability"),
        ("teacher_confidence", set_(5, np.nan), "teacher_confidence is no probability"),
        ("teacher_entropy", set_(5, -1.0), "teacher_entropy is out of range"),
        ("teacher_entropy", set_(5, 1.7), "teacher_entropy is out of range"),
        ("sample_id", set_(9, "images/000001.png"), "the sample id 'images/000001.png' is in several rows: 1, 9"),
    ],
)  # fmt: skip
def test_wrong_samples_are_found(tmp_path, column, change, problem):
    found = deep_findings(with_column(real_content(*SHAPE), column, change), tmp_path / "a.kd")
    assert any(problem in text for _, text in found)
    expected = {samples_file(0), samples_file(2)} if column == "sample_id" else {samples_file(1)}
    assert {path for path, _ in found} >= expected
    if column != "teacher_correct":
        assert {path for path, _ in found} == expected


@pytest.mark.parametrize("arrays", [("logits", "ranks"), ("logits",), ("ranks",)])
def test_a_wrong_top1_is_found_from_whatever_is_stored(tmp_path, arrays):
    content = real_content(*SHAPE, arrays=arrays)
    second, labels = content.ranks[0, 5, 1], content.samples["label"].to_numpy()
    made = with_column(content, "teacher_top1", set_(5, second))
    made = with_column(made, "teacher_correct", set_(5, bool(second == labels[5])))
    found = deep_findings(made, tmp_path / "a.kd")
    assert [path for path, _ in found] == [samples_file(1)]
    assert "(first: row 5)" in found[0][1]


def test_missing_values_are_found(tmp_path):
    """A foreign file may hold them: by its schema, or in spite of it."""
    content = real_content(*SHAPE)
    loose = pa.schema([field.with_nullable(True) for field in content.samples.schema])
    table = pa.table(content.samples.columns, schema=loose)
    labels = pa.array([None if row == 5 else row % 5 for row in range(11)], pa.int32())
    table = table.set_column(2, loose.field("label"), labels)
    dataclasses.replace(content, samples=table).write(tmp_path / "a.kd").finish()
    found = {(finding.path, finding.check) for finding in verify(tmp_path / "a.kd").findings}
    assert found == {(samples_file(block), "schema") for block in range(3)}
    (fault,) = sample_faults(table, range(11), 5, None)
    assert str(fault) == "a value is missing in 1 row (first: row 5)"


def swap_ranks(ranks: np.ndarray) -> None:
    ranks[1, 5, [0, 1]] = ranks[1, 5, [1, 0]]


@pytest.mark.parametrize(
    ("array", "change", "problem"),
    [
        ("logits", set_((1, 5, 2), np.nan), "the logits are not finite in 1 row (first: row 5)"),
        ("logits", set_((1, 5, 2), np.inf), "the logits are not finite in 1 row (first: row 5)"),
        ("ranks", set_((1, 5, 2), 5), "a rank is no class in 1 row (first: row 5)"),
        ("ranks", lambda r: r.__setitem__((1, 5, 2), r[1, 5, 3]), "a class is ranked twice in 1 row (first: row 5)"),
        ("ranks", swap_ranks, "the ranks are not the order of the logits in 1 row (first: row 5)"),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_wrong_payloads_are_found(tmp_path, array, change, problem, dtype):
    content = real_content(*SHAPE, num_views=2, dtype=dtype)
    change(getattr(content, array))
    assert deep_findings(content, tmp_path / "a.kd") == [(array_file(array, 1, 1), problem)]


def test_cut_ranks_that_leave_out_a_better_class_are_found(tmp_path):
    content = real_content(*SHAPE, rank_depth=2)
    content.ranks[0, 5, [1, 2]] = content.ranks[0, 5, [2, 1]]
    assert deep_findings(content, tmp_path / "a.kd") == [
        (array_file("ranks", 0, 1), "the ranks are not the order of the logits in 1 row (first: row 5)")
    ]


def test_rows_that_prefer_no_class_are_a_warning(tmp_path):
    content = real_content(*SHAPE, num_views=2)
    content.logits[1, 5:7] = 3.0
    content.write(tmp_path / "a.kd").finish()
    report = verify(tmp_path / "a.kd", deep=True)
    assert report.whole
    (finding,) = report.warnings
    assert (finding.path, finding.chunk) == (array_file("logits", 1, 1), 4)
    assert "all logits are equal" in finding.problem
    assert "in 2 rows (first: row 5)" in finding.problem


@pytest.mark.parametrize("array", ["logits", "ranks"])
def test_padding_that_is_not_the_fill_value_is_found(tmp_path, array, monkeypatch):
    from kdpipe.stores.payload import zarr_files, zarr_layout

    monkeypatch.setattr(
        zarr_layout,
        "chunk_bytes",
        lambda info, values, rows, **options: zarr_files.chunk_bytes(
            info, values if info.name != array else np.pad(values, ((0, rows - len(values)), (0, 0))), rows, **options
        ),
    )
    found = deep_findings(real_content(*SHAPE), tmp_path / "a.kd")
    assert found == [(array_file(array, 0, 2), "the padding is not the fill value in 1 row (first: row 11)")]


def test_wrong_class_tables_are_found(tmp_path):
    content = real_content(*SHAPE)
    table = content.classes

    def problems(number: int, column: str, values: list[Any]) -> list[str]:
        place = table.schema.get_field_index(column)
        field = table.schema.field(column)
        made = dataclasses.replace(content, classes=table.set_column(place, field, pa.array(values, field.type)))
        made.write(tmp_path / f"{number}.kd").finish()
        return [
            f"{f.severity} {f.problem}"
            for f in verify(tmp_path / f"{number}.kd", deep=True).findings
            if f.path == CLASSES
        ]

    assert "do not count from 0" in problems(0, "class_id", [0, 1, 2, 4, 3])[0]
    assert "not those whose fingerprint" in problems(1, "name", list("abcde"))[0]
    assert f"groups other than {', '.join(GROUP_NAMES)}" in problems(2, "group", ["head"] * 4 + ["body"])[0]
    assert problems(3, "count", [9] * 5) == ["warning its counts are not those of the labels that the store holds"]


def test_rows_that_are_together_not_what_the_manifest_says(tmp_path):
    content = real_content(*SHAPE)
    renamed = with_column(content, "sample_id", set_(5, "images/other.png"))
    found = deep_findings(renamed, tmp_path / "ids.kd")
    assert [path for path, _ in found] == [MANIFEST]
    assert "the sample ids are not those" in found[0][1]
    dataset = dataclasses.replace(content.manifest.dataset, labels=fingerprint(["other"]))
    manifest = dataclasses.replace(content.manifest, dataset=dataset, store_id="")
    found = deep_findings(dataclasses.replace(content, manifest=manifest), tmp_path / "labels.kd")
    assert [path for path, _ in found] == [MANIFEST]
    assert "the labels are not those" in found[0][1]
