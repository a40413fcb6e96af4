"""A remote store is as good a source as a local one: the same command gives the same store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdpipe.stores import CorruptStoreError, Manifest
from kdpipe.stores.remote.client import RemoteObjects
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.push import push
from kdpipe.stores.reshape.map_classes import map_classes
from kdpipe.stores.reshape.merge import merge
from kdpipe.stores.reshape.regroup import regroup
from kdpipe.stores.reshape.subset import Subset, subset


@pytest.fixture
def source(write_store: Callable[..., Any], tmp_path: Path) -> Path:
    write_store(tmp_path / "a.kd", 18, 5, 4, num_views=2)
    return tmp_path / "a.kd"


def test_the_same_store_from_an_address(source: Path, bucket: str, tmp_path: Path) -> None:
    push(source, bucket)
    (tmp_path / "map.toml").write_text("[classes]\na = [0, 1]\nb = [2, 3, 4]\n")
    makers: list[Callable[[Any, Path], Manifest]] = [
        lambda path, out: regroup(path, out, "counts:3,2"),  # first: nothing is in the cache yet
        lambda path, out: subset(path, out, Subset(per_class=2)),
        lambda path, out: map_classes(path, out, tmp_path / "map.toml"),
    ]
    for number, make in enumerate(makers):
        here, there = make(source, tmp_path / f"{number}.kd"), make(bucket, tmp_path / f"{number}-remote.kd")
        assert (there.store_id, there.receipts) == (here.store_id, here.receipts)
    subset(source, tmp_path / "first.kd", Subset(rows=((0, 9),)))
    subset(bucket, tmp_path / "second.kd", Subset(rows=((10, 17),)))
    push(tmp_path / "second.kd", f"{bucket}-2")
    merged = merge([tmp_path / "first.kd", f"{bucket}-2"], tmp_path / "all.kd")
    assert merged.dataset == Manifest.read(source).dataset


@pytest.mark.parametrize("path", ["samples/00001.parquet", "payload.zarr/logits/c/1/2/0", "receipts/00003.json"])
def test_a_damaged_object_is_refused(source: Path, bucket: str, tmp_path: Path, path: str) -> None:
    push(source, bucket)
    data = (source / path).read_bytes()
    RemoteObjects(Location.parse(bucket)).replace(path, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptStoreError):
        subset(bucket, tmp_path / "b.kd", Subset(per_class=3))
    if (tmp_path / "b.kd").exists():
        assert Manifest.read(tmp_path / "b.kd").state == "writing"
