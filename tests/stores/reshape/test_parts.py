"""Parts of one store, made in different folders, are together what one extraction would have made."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import CorruptStoreError, Manifest, MismatchError, RefusedError, UsageError, open_store
from kdpipe.stores import files as store_files
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.layout import array_file
from kdpipe.stores.probe import LibraryProbe
from kdpipe.stores.remote.push import push
from kdpipe.stores.reshape.merge import merge

ROWS, CLASSES, CHUNK_ROWS = 18, 5, 4  # five chunks a view


@pytest.fixture
def whole(write_store: Callable[..., Any], tmp_path: Path) -> Any:
    """A store of four views, and what is in it."""
    return write_store(tmp_path / "whole.kd", ROWS, CLASSES, CHUNK_ROWS, num_views=4, augmentation={"crop": "any"})


def part(whole: Any, path: Path, chunks: range, num_views: int = 4) -> Path:
    """A store with some of the chunks."""
    dataset = whole.manifest.dataset
    manifest = dataclasses.replace(whole.manifest, num_views=num_views, store_id="", dataset=dataset)
    made = dataclasses.replace(whole, manifest=manifest)
    writer = made.write(path, chunks)
    if len(chunks) == manifest.grid.num_chunks:
        writer.finish()
    return path


def files_of(root: Path) -> dict[str, bytes]:
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {name: (root / name).read_bytes() for name in names if name != "manifest.json"}


@pytest.mark.parametrize("remote", [False, True])
def test_further_views(remote: bool, whole: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first, second = part(whole, tmp_path / "a.kd", range(10), 2), part(whole, tmp_path / "b.kd", range(10, 20))
    assert Manifest.read(first).state == "complete"
    sources: list[Any] = [first, second]
    if remote:
        sources[0] = request.getfixturevalue("bucket")
        push(first, sources[0])
    made = merge(sources, tmp_path / "c.kd")
    assert files_of(tmp_path / "c.kd") == files_of(tmp_path / "whole.kd")
    expected = Manifest.read(tmp_path / "whole.kd")
    assert (made.store_id, made.receipts, made.num_views) == (expected.store_id, expected.receipts, 4)
    assert (made.state, made.parents) == ("complete", ())
    assert made.accuracy is not None
    assert verify(tmp_path / "c.kd", deep=True).findings == ()
    one, other = open_store(tmp_path / "c.kd"), open_store(tmp_path / "whole.kd")
    assert np.array_equal(one.read(range(ROWS), view=3)["logits"], other.read(range(ROWS), view=3)["logits"])
    assert merge(sources, tmp_path / "c.kd") == made


def test_ranges_of_chunks_that_overlap(whole: Any, tmp_path: Path) -> None:
    ranges = [range(7), range(5, 13), range(12, 20)]
    parts = [part(whole, tmp_path / f"{number}.kd", chunks) for number, chunks in enumerate(ranges)]
    merge(parts, tmp_path / "c.kd")
    assert files_of(tmp_path / "c.kd") == files_of(tmp_path / "whole.kd")


def test_what_is_missing_is_said(whole: Any, tmp_path: Path) -> None:
    first, second = part(whole, tmp_path / "a.kd", range(10), 2), part(whole, tmp_path / "b.kd", range(11, 19))
    with pytest.raises(RefusedError, match=r"2 of 20 chunks.*view 2, rows 0 to 3"):
        merge([first, second], tmp_path / "c.kd")
    with pytest.raises(UsageError, match="parts of one store"):
        merge([first, second], tmp_path / "c.kd", groups="thirds")
    with pytest.raises(UsageError, match="never changes"):
        merge([first, second], first)
    assert not (tmp_path / "c.kd").exists()


def test_a_damaged_part_is_found(whole: Any, tmp_path: Path) -> None:
    first, second = part(whole, tmp_path / "a.kd", range(10), 2), part(whole, tmp_path / "b.kd", range(10, 20))
    path = second / array_file("logits", 3, 1)
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CorruptStoreError, match=array_file("logits", 3, 1)):
        merge([first, second], tmp_path / "c.kd")
    assert Manifest.read(tmp_path / "c.kd").state == "writing"


def test_other_libraries_drew_other_views(whole: Any, tmp_path: Path) -> None:
    parts = [part(whole, tmp_path / "a.kd", range(10), 2), part(whole, tmp_path / "b.kd", range(10, 20))]
    for path, digest in zip(parts, ("one", "another"), strict=True):
        probe = LibraryProbe(digest=digest, libraries={"torchvision": digest})
        dataclasses.replace(Manifest.read(path), probe=probe).write(path)
    with pytest.raises(MismatchError, match="torchvision another then, one now"):
        merge(parts, tmp_path / "c.kd")


@pytest.mark.parametrize("step", [3, 40, 120])
def test_interrupted_it_goes_on(step: int, whole: Any, tmp_path: Path) -> None:
    parts = [part(whole, tmp_path / "a.kd", range(10), 2), part(whole, tmp_path / "b.kd", range(10, 20))]
    steps = iter(range(step))

    def interrupt(*_: object) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_files, "on_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            merge(parts, tmp_path / "c.kd")
    merge(parts, tmp_path / "c.kd")
    assert files_of(tmp_path / "c.kd") == files_of(tmp_path / "whole.kd")
