"""``parquet:``: many files and row groups, read lazily."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdpipe.pipeline.data import load_data, parquet
from kdpipe.stores.errors import BadSampleError, KdpipeError, MismatchError, UsageError


def write(path: Path, numbers: Any, row_group_size: int = 4, **columns: Any) -> None:
    """Rows of two floats (number, -number), of two classes in turn."""
    numbers = list(numbers)
    cells = pa.array([[float(n), -float(n)] for n in numbers], pa.list_(pa.float32()))
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"image": cells, "label": pa.array([n % 2 for n in numbers], pa.int64()), **columns}
    pq.write_table(pa.table(given), path, row_group_size=row_group_size)


def first_number(raw: Any) -> float:
    return float(raw[0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 13), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1),
    row_group_size=st.integers(1, 6),
    data=st.data(),
)
def test_every_row_is_found_in_any_order(
    tmp_path: Path, sizes: list[int], row_group_size: int, data: st.DataObject
) -> None:
    for old in tmp_path.glob("*.parquet"):
        old.unlink()
    start = 0
    for number, size in enumerate(sizes):
        write(tmp_path / f"{number}.parquet", range(start, start + size), row_group_size)
        start += size
    samples = load_data(f"parquet:{tmp_path}/*.parquet,shape=2")
    order = data.draw(st.permutations(range(start)))
    assert [first_number(samples.raw(i)) for i in order] == order
    assert samples.labels.tolist() == [i % 2 for i in range(start)]
    ids = [f"{number}.parquet/{row}" for number, size in enumerate(sizes) for row in range(size)]
    assert samples.sample_ids.to_pylist() == ids


def test_ids_do_not_depend_on_which_files_match(tmp_path: Path) -> None:
    for name in ("a/train.parquet", "b/train.parquet", "b/val.parquet"):
        write(tmp_path / name, range(4))
    both = load_data(f"parquet:{tmp_path}/*/train.parquet,shape=2").sample_ids.to_pylist()
    deep = load_data(f"parquet:{tmp_path}/**/train.parquet,shape=2").sample_ids.to_pylist()
    assert both == deep == [f"{folder}/train.parquet/{row}" for folder in "ab" for row in range(4)]
    (tmp_path / "a/train.parquet").unlink()
    assert load_data(f"parquet:{tmp_path}/*/train.parquet,shape=2").sample_ids.to_pylist() == both[4:]
    one = load_data(f"parquet:{tmp_path}/b/train.parquet,shape=2")
    assert one.sample_ids[0].as_py() == "train.parquet/0"


def test_reading_in_order_reads_each_row_group_once_and_keeps_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.parquet", range(40), row_group_size=8)
    reads: Counter[int] = Counter()
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, number: int, *rest: Any, **more: Any) -> pa.Table:
        reads[number] += 1
        return original(self, number, *rest, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    samples = load_data(f"parquet:{tmp_path}/a.parquet,shape=2")
    assert not reads
    for i in range(40):
        samples.raw(i)
    assert reads == dict.fromkeys(range(5), 1)
    samples.raw(0)
    assert reads[0] == 1  # still there
    monkeypatch.setattr(parquet, "_CACHE_BYTES", 1)
    samples = load_data(f"parquet:{tmp_path}/a.parquet,shape=2")
    for i in (0, 39, 0):
        samples.raw(i)
    assert len(samples.items._cache) == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_class_names_that_hugging_face_wrote(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", range(6))
    table = pq.read_table(tmp_path / "a.parquet")
    features = '{"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}'
    pq.write_table(table.replace_schema_metadata({"huggingface": features}), tmp_path / "b.parquet")
    assert load_data(f"parquet:{tmp_path}/b.parquet,shape=2").class_names == ("no", "yes")
    for other in ("{", "[]", '{"info": {"features": {"label": {"dtype": "int64"}}}}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": other}), tmp_path / "b.parquet")
        assert load_data(f"parquet:{tmp_path}/b.parquet,shape=2").class_names == ("0", "1")


def test_dictionary_encoded_names_differ_from_file_to_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", range(2), name=pa.array(["x", "y"]).dictionary_encode())
    write(tmp_path / "b.parquet", range(2), name=pa.array(["z", "x"]).dictionary_encode())
    samples = load_data(f"parquet:{tmp_path}/*.parquet,shape=2,label=name")
    assert (samples.class_names, samples.labels.tolist()) == (("x", "y", "z"), [0, 1, 2, 0])


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", range(4))
    write(tmp_path / "b.parquet", range(4), label=pa.array(["x", "y", "x", "y"]))
    with pytest.raises(MismatchError, match=r"column 'label' of .*b\.parquet holds string, that of .*a\.parquet int64"):
        load_data(f"parquet:{tmp_path}/*.parquet,shape=2")
    pq.write_table(pa.table({"label": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match=r"Unknown column of .*b\.parquet 'image'"):
        load_data(f"parquet:{tmp_path}/*.parquet,shape=2")


def test_nothing_matches(tmp_path: Path) -> None:
    for pattern, problem in (
        (tmp_path, rf"Write parquet:{tmp_path}/\*\.parquet"),
        ("none*", "parquet:DIR"),
        ("", "No file"),
    ):
        with pytest.raises(UsageError, match=problem):
            load_data(f"parquet:{pattern}")


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, range(64), row_group_size=32)
    samples = load_data(f"parquet:{path},shape=2")
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
    with pytest.raises(BadSampleError, match=r"The sample a\.parquet/3 cannot be read: row group 0 of .* is damaged"):
        samples.raw(3)
    path.unlink()
    with pytest.raises(BadSampleError, match="No such file"):
        samples.raw(40)
    for content in (whole[:-50], b"none", b""):
        path.write_bytes(content)
        with pytest.raises(KdpipeError, match="cannot be read as Parquet"):
            load_data(f"parquet:{path},shape=2")


def test_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [])
    for more in ("", ",id=label"):
        with pytest.raises(UsageError, match="is empty"):
            load_data(f"parquet:{tmp_path}/a.parquet,shape=2{more}")


def test_the_first_row_is_the_first_sample_s(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", range(5))
    samples = load_data(f"parquet:{tmp_path}/a.parquet,shape=1,2")
    np.testing.assert_array_equal(np.asarray(samples.raw(2)), [[[2.0, -2.0]]])
