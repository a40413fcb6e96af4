"""Ranges and ranks: the same store whoever makes which chunk, and a clear end for each of them."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from kdpipe.pipeline import ExtractConfig, Progress, extract
from kdpipe.pipeline.engines import local
from kdpipe.stores import StoreWriter, UsageError, open_store
from kdpipe.stores.claims import Claim
from ranked import run_ranks

Make = Callable[..., ExtractConfig]
Read = Callable[[str], dict[str, str]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that this process writes, in order."""
    chunks: list[int] = []
    original = StoreWriter.write_chunk

    def note(self: StoreWriter, chunk: int, *rest: object) -> object:
        chunks.append(chunk)
        return original(self, chunk, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(StoreWriter, "write_chunk", note)
    return chunks


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make this process one of torchrun's."""

    def become(rank: int, count: int) -> None:
        for name, value in {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}.items():
            monkeypatch.setenv(name, str(value))

    return become


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_ranges_in_any_order_make_the_same_store(
    order: tuple[int, ...], config: Make, content: Read, whole: dict[str, str]
) -> None:
    results = [extract(config("d.kd", chunks=f"{number}/3")) for number in order]
    assert [result.manifest.state for result in results] == ["writing", "writing", "complete"]
    assert sum(result.computed for result in results) == 898
    assert content("d.kd") == whole


def test_a_range_makes_its_chunks_alone_and_again_nothing(config: Make, written: list[int]) -> None:
    seen: list[Progress] = []
    extract(config("d.kd", chunks="2/3"), seen.append)
    assert written == [3, 4, 5]
    assert seen[-1] == Progress(found=0, computed=300, total=300)
    again = extract(config("d.kd", chunks="2/3"))
    assert (again.computed, again.manifest.state, again.was_complete) == (0, "writing", False)


def test_what_a_killed_writer_left_is_removed_by_the_last_range(
    config: Make, content: Read, whole: dict[str, str]
) -> None:
    """To look for it, every folder of the store is listed: once, not by each of a thousand tasks."""
    extract(config("d.kd", chunks="1/3"))
    left = Path("d.kd/samples/.00004.parquet~elsewhere@1-00000000.tmp")
    left.touch()
    os.utime(left, (0, 0))
    extract(config("d.kd", chunks="2/3"))
    assert left.exists()
    extract(config("d.kd", chunks="3/3"))
    assert content("d.kd") == whole


def test_a_range_does_not_wait_for_others(config: Make) -> None:
    """A claim on another range's chunk, of a process elsewhere that seems to live."""
    extract(config("d.kd", chunks="3/3"))
    claim = {**msgspec.to_builtins(Claim.mine()), "host": "elsewhere"}
    Path("d.kd/locks").mkdir()
    Path("d.kd/locks/00000.json").write_bytes(msgspec.json.encode(claim))
    assert extract(config("d.kd", chunks="2/3")).computed == 300


def test_more_ranges_than_chunks(config: Make, content: Read, whole: dict[str, str]) -> None:
    states = [extract(config("d.kd", chunks=f"{number}/12")).manifest.state for number in range(1, 13)]
    assert states == ["writing"] * 11 + ["complete"]
    assert content("d.kd") == whole


def test_a_run_without_ranges_finishes_what_ranges_have_left(
    config: Make, content: Read, whole: dict[str, str]
) -> None:
    extract(config("d.kd", chunks="1/3"))
    assert extract(config("d.kd")).computed == 598
    assert content("d.kd") == whole


def test_a_rank_begins_with_its_own_share_and_leaves_the_end_to_rank_0(
    config: Make, content: Read, whole: dict[str, str], written: list[int], as_rank: Callable[[int, int], None]
) -> None:
    extract(config("d.kd", chunks="9/9"))  # so that the store is begun
    written.clear()
    as_rank(1, 2)
    result = extract(config("d.kd"))
    assert written == [4, 5, 6, 7, 0, 1, 2, 3], "its own, then what nobody has made"
    assert result.manifest.state == "writing"
    as_rank(0, 2)
    result = extract(config("d.kd"))
    assert (result.manifest.state, result.computed) == ("complete", 0)
    assert content("d.kd") == whole


def test_the_progress_counts_what_others_make(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is looked again after every batch, and another range is made after the first one."""
    monkeypatch.setattr(local, "_LOOK_SECONDS", -1.0)
    extract(config("d.kd", chunks="1/3"))
    Path("d.kd/receipts/.00003.json~elsewhere@1-00000000.tmp").touch()  # one that is being written
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        if not seen:
            extract(config("d.kd", chunks="3/3"))
        seen.append(progress)

    extract(config("d.kd"), on_progress)
    assert [progress.computed for progress in seen][-1] == 300
    found = [progress.found for progress in seen]
    assert found[0] == 300
    assert found == sorted(found), "the bar never goes back"
    assert 300 + 298 - 100 <= found[-1] <= 300 + 298


def test_ranks_share_a_range(config: Make, written: list[int], as_rank: Callable[[int, int], None]) -> None:
    extract(config("d.kd", chunks="9/9"))
    written.clear()
    as_rank(1, 2)
    extract(config("d.kd", chunks="1/2"))
    assert written == [2, 3, 0, 1]


def test_a_rank_that_does_not_see_the_store_says_so(
    config: Make, as_rank: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_BEGIN_SECONDS", 0.0)
    as_rank(1, 2)
    with pytest.raises(UsageError, match=rf"Rank 1 on {socket.gethostname()} does not see .*shared?"):
        extract(config("d.kd"))
    assert not Path("d.kd").exists()


def test_a_killed_rank_then_another_number(config: Make, content: Read, whole: dict[str, str]) -> None:
    """Two ranks, one of them killed in the middle of a chunk, which ends both; then three, which go on."""
    Path("kills").mkdir()
    Path("kills/1").touch()
    assert -signal.SIGKILL in run_ranks(2, extract, config("d.kd"))
    assert run_ranks(3, extract, config("d.kd")) == [0, 0, 0]
    assert content("d.kd") == whole
    assert open_store("d.kd").manifest.state == "complete"
