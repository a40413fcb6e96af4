"""The Parquet tables: the same bytes for the same rows; another schema or a damaged file is refused by name."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kdpipe.stores import CorruptStoreError
from kdpipe.stores.tables import CLASSES_SCHEMA, SAMPLES_SCHEMA, classes_table, read_parquet, to_parquet

CLASSES = classes_table(["cat", "dog"], np.array([3, 1]), ("head", "tail"))


def test_the_classes_table():
    assert CLASSES.schema.equals(CLASSES_SCHEMA)
    assert CLASSES.to_pylist() == [
        {"class_id": 0, "name": "cat", "count": 3, "group": "head"},
        {"class_id": 1, "name": "dog", "count": 1, "group": "tail"},
    ]
    with pytest.raises((ValueError, pa.ArrowException)):
        classes_table(["cat", "dog"], [3], ["head", "tail"])


def test_the_same_table_gives_the_same_bytes(content):
    made = content(1000, 5, 4)
    assert to_parquet(made.samples) == to_parquet(pa.concat_tables([made.samples]).combine_chunks())


def test_a_table_is_read_as_it_was_written(tmp_path, content):
    made = content()
    (tmp_path / "a.parquet").write_bytes(to_parquet(made.samples))
    assert read_parquet(tmp_path / "a.parquet", SAMPLES_SCHEMA, 10).equals(made.samples)
    assert read_parquet(tmp_path / "a.parquet", SAMPLES_SCHEMA, 10, ["label"]).column_names == ["label"]
    assert pq.read_schema(tmp_path / "a.parquet").equals(SAMPLES_SCHEMA)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (CLASSES.slice(0, 1), "has 1 rows, the manifest says 2"),
        (CLASSES.drop(["group"]), "has other columns"),
        (CLASSES.rename_columns(["class", "name", "count", "group"]), "has other columns"),
        (CLASSES.set_column(2, "count", pa.array([1.0, 2.0])), "has other columns"),
    ],
    ids=["rows", "missing", "renamed", "type"],
)
def test_another_table_is_refused(tmp_path, table, message):
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CorruptStoreError, match=f"a.parquet {message}.*Restore"):
        read_parquet(tmp_path / "a.parquet", CLASSES_SCHEMA, 2)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_cut_table_is_refused(tmp_path, size):
    path = tmp_path / "a.parquet"
    path.write_bytes(to_parquet(CLASSES))
    os.truncate(path, size % path.stat().st_size)
    with pytest.raises(CorruptStoreError, match=r"a.parquet cannot be read .*Restore"):
        read_parquet(path, CLASSES_SCHEMA, 2)
