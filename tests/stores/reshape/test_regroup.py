"""Other groups: the payload is linked, tables and receipts say the new groups, and the store is another one."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdpipe.stores import CorruptStoreError, MismatchError, RefusedError, UsageError, open_store
from kdpipe.stores import files as store_files
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.reshape.regroup import regroup

WriteStore = Callable[..., Any]
# of 14 samples, the classes 0-3 have 3 each and class 4 has 2
RULE, GROUPS = "counts:2,1", ["head", "head", "head", "head", "medium"]


@pytest.fixture
def store(write_store: WriteStore, tmp_path: Path) -> Path:
    write_store(tmp_path / "a.kd", 14, 5, 4, num_views=2)
    return tmp_path / "a.kd"


def payload(root: Path) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in (root / "payload.zarr").rglob("c/*/*/0")}


def test_groups_change_and_nothing_else(store: Path, tmp_path: Path) -> None:
    made = regroup(store, tmp_path / "b.kd", RULE)
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    old, new = open_store(store), open_store(tmp_path / "b.kd")
    assert new.classes["group"].to_pylist() == GROUPS
    assert new.samples(["group"])["group"].to_pylist() == [GROUPS[row % 5] for row in range(14)]
    assert new.samples().drop_columns("group").equals(old.samples().drop_columns("group"))
    assert new.classes.drop_columns("group").equals(old.classes.drop_columns("group"))
    assert [new.receipt(chunk).inputs for chunk in range(8)] == [old.receipt(chunk).inputs for chunk in range(8)]
    assert made.group_rule == RULE
    assert made.store_id != old.manifest.store_id
    assert "counts:2,1 in the place of thirds" in made.parents[0].change
    ours, theirs = payload(tmp_path / "b.kd"), payload(store)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].stat().st_ino == theirs[name].stat().st_ino for name in ours), "hard links"
    assert regroup(store, tmp_path / "b.kd", RULE) == made
    shutil.rmtree(store)
    assert verify(tmp_path / "b.kd", deep=True).findings == (), "it lives on without its parent"


def test_files_are_copied_where_they_cannot_be_linked(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdpipe.stores.reshape.linking.os.link", refuse)
        regroup(store, tmp_path / "b.kd", RULE)
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    assert all(path.stat().st_nlink == 1 for path in payload(tmp_path / "b.kd").values())


@pytest.mark.parametrize("step", range(5, 60, 11))
def test_interrupted_it_goes_on(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    steps = iter(range(step))

    def interrupt(name: str, path: Path) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_files, "on_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            regroup(store, tmp_path / "b.kd", RULE)
    made = regroup(store, tmp_path / "b.kd", RULE)
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    assert made.receipts == regroup(store, tmp_path / "c.kd", RULE).receipts
    left, right = (
        {path.relative_to(root) for path in root.rglob("*")} for root in (tmp_path / "b.kd", tmp_path / "c.kd")
    )
    assert left == right, "nothing is left over"


def test_what_cannot_be_regrouped(store: Path, write_store: WriteStore, tmp_path: Path) -> None:
    write_store(tmp_path / "top.kd", 14, 5, 4, codec="topk:2")
    with pytest.raises(RefusedError, match="sums over the groups"):
        regroup(tmp_path / "top.kd", tmp_path / "b.kd", RULE)
    same = tmp_path / "groups.csv"
    groups = open_store(tmp_path / "top.kd").classes["group"].to_pylist()
    same.write_text("class,group\n" + "".join(f"{number},{group}\n" for number, group in enumerate(groups)))
    assert regroup(tmp_path / "top.kd", tmp_path / "c.kd", str(same)).group_rule.startswith("file:groups.csv#")
    with pytest.raises(UsageError, match="never changes"):
        regroup(store, store, RULE)
    with pytest.raises(UsageError, match="group rule"):
        regroup(store, tmp_path / "b.kd", "halves")
    regroup(store, tmp_path / "d.kd", RULE)
    with pytest.raises(UsageError, match="these groups already"):
        regroup(tmp_path / "d.kd", tmp_path / "b.kd", RULE)
    with pytest.raises(MismatchError, match="group-rule is"):
        regroup(store, tmp_path / "d.kd", "counts:9,1")
    next(iter(payload(store).values())).write_bytes(b"")
    with pytest.raises(CorruptStoreError, match="bytes"):
        regroup(store, tmp_path / "b.kd", RULE)
