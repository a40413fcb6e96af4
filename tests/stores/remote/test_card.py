"""A card travels with its store and is no part of it: nobody's checksum knows it, and nothing is refused for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdpipe.stores import CorruptStoreError, KdpipeError, RefusedError, open_store
from kdpipe.stores.cards.write import write_card
from kdpipe.stores.checks.repair import repair
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.layout import CARD, CROISSANT, array_file
from kdpipe.stores.remote.client import RemoteObjects
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.objects import Objects, open_objects
from kdpipe.stores.remote.pull import pull
from kdpipe.stores.remote.push import push
from kdpipe.stores.remote.selection import Selection


@pytest.fixture
def carded(write_store: Callable[..., Any], tmp_path: Path) -> Path:
    """A store with a card in its folder."""
    write_store(tmp_path / "a.kd", 18, 5, 4, num_views=2)
    write_card(open_store(tmp_path / "a.kd"), tmp_path / "a.kd")
    return tmp_path / "a.kd"


@pytest.fixture(params=["remote", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("bucket") if request.param == "remote" else str(tmp_path / "shared" / "a.kd")


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def objects_at(place: str) -> Objects:
    return open_objects(Location.parse(place))


def contents_at(place: str) -> dict[str, bytes]:
    objects = objects_at(place)
    return {path: bytes(objects.read(path, limit=10**6) or b"") for path in objects.found()}


def test_push_and_pull_take_it_along_and_nobody_complains(carded: Path, place: str, tmp_path: Path) -> None:
    assert verify(carded, deep=True).notes == ()
    push(carded, place)
    assert contents_at(place) == files_of(carded)
    assert not [note for note in verify(place, deep=True).notes if "belong" in note]
    pull(place, tmp_path / "b.kd")
    assert files_of(tmp_path / "b.kd") == files_of(carded)


def test_a_link_sends_no_file_from_elsewhere(carded: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("private")
    (carded / CARD).unlink()
    (carded / CARD).symlink_to(tmp_path / "secret.txt")
    linked = tmp_path / "linked.kd"
    linked.symlink_to(carded)  # as a whole a store may lie elsewhere
    push(linked, str(tmp_path / "shared.kd"))
    assert CARD not in files_of(tmp_path / "shared.kd")
    assert CROISSANT in files_of(tmp_path / "shared.kd")
    with pytest.raises(CorruptStoreError, match=rf"{CARD} leads out of its folder"):
        objects_at(str(linked)).read(CARD, limit=100)


def test_a_later_card_takes_the_place_of_an_older_one(carded: Path, place: str) -> None:
    (carded / CARD).rename(carded.parent / "kept")
    (carded / CROISSANT).unlink()
    push(carded, place)
    assert CARD not in contents_at(place)
    page = (carded.parent / "kept").read_text()
    for text in (page, page + "\nAsk the vision team.\n"):
        (carded / CARD).write_text(text)
        again = push(carded, place)
        assert (again.bytes_sent, again.finished_before) == (0, True), "the store is what it was"
        assert contents_at(place) == files_of(carded)
    (carded / CARD).unlink()
    push(carded, place)
    assert contents_at(place)[CARD].decode().endswith("vision team.\n"), "one without a card leaves it alone"


def test_it_may_be_there_first(carded: Path, place: str) -> None:
    objects = objects_at(place)
    objects.replace(CARD, (carded / CARD).read_bytes() + b"\nwith a line more\n")
    objects.replace(CROISSANT, b"{}")
    push(carded, place)
    assert contents_at(place) == files_of(carded)


@pytest.mark.parametrize("text", ["# Our stores", '---\nkdpipe_store: "0000000000000000"\n---\n# Another\n'])
def test_another_page_is_not_overwritten(text: str, carded: Path, place: str) -> None:
    objects_at(place).replace(CARD, text.encode())
    with pytest.raises(RefusedError, match=f"such as {CARD}"):
        push(carded, place)
    assert contents_at(place) == {CARD: text.encode()}


def test_a_part_has_another_card(carded: Path, tmp_path: Path) -> None:
    pull(carded, tmp_path / "b.kd", Selection.parse(["ranks"]))
    assert not (tmp_path / "b.kd" / CARD).exists()


def test_a_card_that_is_here_is_kept(carded: Path, tmp_path: Path) -> None:
    pull(carded, tmp_path / "b.kd")
    (tmp_path / "b.kd" / CARD).write_text("mine")
    (tmp_path / "b.kd" / array_file("logits", 0, 1)).write_bytes(b"")
    assert repair(tmp_path / "b.kd").changed
    assert pull(carded, tmp_path / "b.kd").bytes_fetched > 0
    assert (tmp_path / "b.kd" / CARD).read_text() == "mine"


def test_a_server_that_forbids_what_is_missing_stops_no_pull(
    carded: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public buckets that nobody may list answer so."""
    push(carded, bucket)
    read = RemoteObjects.read

    def forbidding(self: RemoteObjects, path: str, *, limit: int) -> memoryview | None:
        if path in (CARD, CROISSANT):
            raise KdpipeError("the server refused (403 AccessDenied)")
        return read(self, path, limit=limit)

    monkeypatch.setattr(RemoteObjects, "read", forbidding)
    pull(bucket, tmp_path / "b.kd")
    assert verify(tmp_path / "b.kd", deep=True).whole
