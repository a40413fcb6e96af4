"""Push and pull in another codec: proved, resumed, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import KdpipeError, MismatchError, MissingArrayError, RefusedError, UsageError, open_store
from kdpipe.stores import files as store_files
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.remote import push as pushing
from kdpipe.stores.remote.pull import pull
from kdpipe.stores.remote.recoded import pull_recoded, push_recoded
from kdpipe.stores.remote.selection import Selection

WriteStore = Callable[..., Any]
ROWS = np.arange(18)


def test_there_and_back_again(store: Path, bucket: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    pushed = push_recoded(store, bucket, "int8+zstd", scratch=scratch)
    assert list(scratch.iterdir()) == []
    there, here = open_store(bucket), open_store(store)
    assert str(there.manifest.logit_codec) == "int8+zstd"
    assert pushed.store_id == there.manifest.store_id
    assert there.manifest.parents[0].store_id == here.manifest.store_id
    assert np.array_equal(
        there.read(ROWS, arrays=("ranks",), view=1)["ranks"], here.read(ROWS, arrays=("ranks",), view=1)["ranks"]
    )
    again = push_recoded(store, bucket, "int8+zstd", scratch=scratch)
    assert (again.finished_before, again.bytes_sent) == (True, 0)

    pulled = pull_recoded(bucket, tmp_path / "b.kd", "float16")
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    back = open_store(tmp_path / "b.kd")
    logits = here.read(ROWS, view=1)["logits"].astype(np.float32)
    bound = there.manifest.logit_codec.error_bound(logits, {}) + 2.0**-10 * np.abs(logits)  # pyright: ignore[reportAttributeAccessIssue]
    assert (np.abs(back.read(ROWS, view=1)["logits"] - logits) <= bound).all()
    assert [parent.store_id for parent in back.manifest.parents[0].parents] == [here.manifest.store_id]
    assert pulled.store_id == back.manifest.store_id
    assert {path.name for path in tmp_path.iterdir()} == {"b.kd", "scratch", "cache"}
    assert pull_recoded(bucket, tmp_path / "b.kd", "float16").finished_before
    with pytest.raises(MismatchError, match="another store"):
        pull_recoded(bucket, tmp_path / "b.kd", "float32")


def test_a_part_in_another_codec(store: Path, tmp_path: Path) -> None:
    part = Selection.parse(["logits"], rows="5-9", views="0")
    pull_recoded(store, tmp_path / "b.kd", "int8", part)
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    made = open_store(tmp_path / "b.kd").manifest
    assert (made.num_samples, made.num_views, made.array_names) == (8, 1, "logit_codes, logit_scale")
    assert pull_recoded(store, tmp_path / "b.kd", "int8", part).finished_before
    with pytest.raises(MismatchError, match="another part"):
        pull_recoded(store, tmp_path / "b.kd", "int8")
    assert {path.name for path in tmp_path.iterdir()} == {"b.kd"}


@pytest.mark.parametrize("step", [3, 40, 90, 130])
def test_interrupted_they_go_on(store: Path, tmp_path: Path, step: int) -> None:
    steps = iter(range(step))

    def interrupt(*_: object) -> None:
        if next(steps, None) is None:
            raise KdpipeError("the power was cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_files, "on_step", interrupt)
        with pytest.raises(KdpipeError, match="power"):
            pull_recoded(store, tmp_path / "b.kd", "int8")
    pull_recoded(store, tmp_path / "b.kd", "int8")
    pull(store, tmp_path / "plain.kd")
    undisturbed = pull_recoded(tmp_path / "plain.kd", tmp_path / "c.kd", "int8")
    assert open_store(tmp_path / "b.kd").manifest.receipts == undisturbed.receipts
    assert {path.name for path in tmp_path.iterdir()} == {"b.kd", "c.kd", "plain.kd"}


def test_a_push_that_fails_keeps_its_copy(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KdpipeError("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr("kdpipe.stores.remote.recoded.push", fail)
        with pytest.raises(KdpipeError, match="away"):
            push_recoded(store, tmp_path / "there.kd", "topk:2", scratch=tmp_path)
    assert (tmp_path / ".a.kd.topk-2" / "manifest.json").exists()
    push_recoded(store, tmp_path / "there.kd", "topk:2", scratch=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"there.kd"}
    assert pushing.CLAIM not in {path.name for path in (tmp_path / "there.kd").iterdir()}


@pytest.mark.parametrize(
    ("codec", "error", "says"),
    [
        ("float16", UsageError, "already"),
        ("flaot32", UsageError, "Did you mean"),
        ("factorised", RefusedError, "features"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_moves(
    store: Path, write_store: WriteStore, tmp_path: Path, codec: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        pull_recoded(store, tmp_path / "b.kd", codec)
    with pytest.raises(error, match=says):
        push_recoded(store, tmp_path / "b.kd", codec, scratch=tmp_path)
    with pytest.raises(UsageError, match="read only"):
        push_recoded(store, "https://host/b.kd", "int8", scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
    write_store(tmp_path / "top.kd", 13, 5, 4, codec="topk:2")
    with pytest.raises(MissingArrayError, match="all logits"):
        pull_recoded(tmp_path / "top.kd", tmp_path / "b.kd", "float16")
