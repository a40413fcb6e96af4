"""Stores with a Parquet payload on a server: pushed, pulled, streamed through a cache, verified, refused in part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import RefusedError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.remote import cache as cache_module
from kdpipe.stores.remote.pull import pull
from kdpipe.stores.remote.push import push
from kdpipe.stores.remote.selection import Selection
from kdpipe.stores.remote.store import RemoteStore

SPELLINGS = [("parquet", None), ("parquet", "float16+zstd"), ("parquet-lists", None), ("parquet", "factorised:3")]


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=SPELLINGS, ids=lambda param: "-".join(filter(None, param)))
def local(request: pytest.FixtureRequest, write_store: Callable[..., Any], tmp_path_factory) -> Path:
    spelling, codec = request.param
    path = tmp_path_factory.mktemp("local") / "a.kd"
    write_store(path, 90, 5, 4, num_views=2, codec=codec, payload_format=spelling)
    return path


def test_a_server_changes_nothing(local: Path, bucket: str, tmp_path: Path) -> None:
    push(local, bucket)
    assert verify(bucket, deep=True).findings == ()
    pull(bucket, tmp_path / "b.kd")
    assert files_of(tmp_path / "b.kd") == files_of(local)
    here, there = open_store(local), open_store(bucket, cache=tmp_path / "cache")
    names = [*(array.name for array in here.manifest.arrays), "logits"]
    for order in ("chunks", "random", "chunks"):
        for view in range(2):
            both = (store.batches(16, arrays=names, order=order, view=view) for store in (here, there))
            for ours, theirs in zip(*both, strict=True):
                assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ("row", *names))
    for _, _, path in cache_module._chunk_files(there.path.parent):
        path.unlink()  # evicted by another run
    again = open_store(bucket, cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.read([89, 3])["logits"], here.read([89, 3])["logits"])


def test_a_chunk_evicted_before_it_is_opened_is_fetched_again(
    write_store: Callable[..., Any], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "a.kd", 18, 5, 4, payload_format="parquet")
    push(tmp_path / "a.kd", bucket)
    store = open_store(bucket, cache=tmp_path / "cache")
    have, calls = RemoteStore._have, []

    def evicting(self, record) -> None:
        have(self, record)
        calls.append(record.path)
        if record.path == "payload/00000.parquet" and calls.count(record.path) == 1:
            (self.path / record.path).unlink()

    monkeypatch.setattr(RemoteStore, "_have", evicting)
    np.testing.assert_array_equal(store.read([2])["logits"], open_store(tmp_path / "a.kd").read([2])["logits"])
    assert calls.count("payload/00000.parquet") == 2


def test_views_may_be_left_out_and_nothing_else(local: Path, tmp_path: Path) -> None:
    pull(local, tmp_path / "b.kd", Selection.parse(views="0-0"))
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    one, other = open_store(tmp_path / "b.kd"), open_store(local)
    np.testing.assert_array_equal(one.read(np.arange(90))["logits"], other.read(np.arange(90))["logits"])
    for selection in (Selection.parse(rows="0-10"), Selection.parse(arrays=("ranks",))):
        with pytest.raises(RefusedError, match="kdpipe store subset"):
            pull(local, tmp_path / "c.kd", selection)
