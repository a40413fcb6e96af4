"""Stores of every codec travel alike: pushed, streamed, pulled whole and in part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import Store, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.remote.pull import pull
from kdpipe.stores.remote.push import push
from kdpipe.stores.remote.selection import Selection

NUM_ROWS = 40


def all_rows(store: Store, start: int = 0, stop: int = NUM_ROWS) -> dict[str, np.ndarray]:
    """Every stored array of view 0, and the logits where they can be had."""
    names = [array.name for array in store.manifest.arrays]
    names += ["logits"] if store.manifest.components("logits") and "logits" not in names else []
    return store.read(np.arange(start, stop), arrays=names)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one)


@pytest.mark.parametrize("codec", ["int8", "topk:3", "factorised:2", "float16+zstd", "int8+zstd"])
def test_a_store_of_any_codec(codec: str, write_store: Callable[..., Any], bucket: str, tmp_path: Path) -> None:
    write_store(tmp_path / "a.kd", NUM_ROWS, 5, 4, codec=codec)
    push(tmp_path / "a.kd", bucket)
    local, remote = open_store(tmp_path / "a.kd"), open_store(bucket)
    assert equal(all_rows(remote), all_rows(local))
    assert equal(all_rows(open_store(bucket)), all_rows(local)), "from the cache"
    pull(bucket, tmp_path / "b.kd")
    assert (tmp_path / "b.kd/manifest.json").read_bytes() == (tmp_path / "a.kd/manifest.json").read_bytes()
    parts = [Selection.parse(["logits"]), Selection.parse(["ranks"]), Selection.parse(rows="9-20")]
    for number, selection in enumerate(parts):
        root = tmp_path / f"{number}.kd"
        pull(bucket, root, selection)
        report = verify(root, deep=True)
        assert (report.findings, report.notes) == ((), ())
        part, start = open_store(root), 0 if selection.rows is None else 8
        assert equal(all_rows(part, 0, len(part)), all_rows(local, start, start + len(part)))
