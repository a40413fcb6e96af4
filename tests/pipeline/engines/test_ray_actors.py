"""Ray: the store of the local engine, although actors die; and bad input ends before a cluster is asked."""

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline import ExtractConfig, Progress, extract
from kdpipe.pipeline.engines import ray_actors
from kdpipe.pipeline.engines.actor_bounds import parse_actors
from kdpipe.stores import KdpipeError, UsageError
from kdpipe.stores.errors import MissingExtraError
from ray_here import ray_here

Make = Callable[..., ExtractConfig]
Read = Callable[[str], dict[str, str]]


@pytest.fixture
def cluster(workplace: Path) -> Iterator[None]:
    """A Ray of this machine's own with two cores."""
    with ray_here(workplace):
        yield


def test_an_actor_killed_in_the_middle_of_a_chunk(
    cluster: None, config: Make, content: Read, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced; where one chunk loses actor after actor, the run ends, and the next one goes on."""
    Path("kills").mkdir()
    Path("kills/1").touch()
    with monkeypatch.context() as patch:
        patch.setattr(ray_actors, "_ATTEMPTS", 1)
        with pytest.raises(KdpipeError, match=r"1 actors were lost over the same work \(chunk \d\)"):
            extract(config("d.kd", engine="ray", actors="1"))
    assert list(Path("kills").iterdir()) == [], "it was killed"

    Path("kills/2").touch()
    seen: list[Progress] = []
    result = extract(config("d.kd", engine="ray", actors="2"), seen.append)
    assert list(Path("kills").iterdir()) == []
    assert (result.manifest.state, result.was_complete) == ("complete", False)
    assert seen[-1].found + seen[-1].computed == seen[-1].total == 898
    assert content("d.kd") == whole
    with pytest.raises(UsageError, match="no Python module 'no_such'"):  # as the local engine says it
        extract(config("e.kd", engine="ray", actors="1", teacher="python:no_such:teacher"))


@given(st.lists(st.integers(0, 10**6), unique=True), st.integers(1, 20))
def test_tasks_are_all_chunks_in_order_and_small_near_the_end(chunks: list[int], actors: int) -> None:
    tasks = list(ray_actors._tasks(chunks, actors))
    assert [chunk for task in tasks for chunk in task] == chunks
    sizes = [len(task) for task in tasks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= 8 for size in sizes)
    assert not sizes or sizes[-1] == 1


@pytest.mark.parametrize(("text", "bounds"), [("3", (3, 3)), ("1..8", (1, 8)), ("2..2", (2, 2)), (None, (1, 5))])
def test_how_many_actors(text: str | None, bounds: tuple[int, int]) -> None:
    assert parse_actors(text, 5) == bounds


@pytest.mark.parametrize("text", ["", "0", "0..3", "5..2", "1-3", "a..b", "..3", "1..", "-1"])
def test_what_is_no_number_of_actors(text: str, config: Make) -> None:
    with pytest.raises(UsageError, match=r"MIN\.\.MAX"):
        config("d.kd", engine="ray", actors=text)


def test_what_does_not_go_with_ray(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="Leave out --chunks"):
        config("d.kd", engine="ray", chunks="1/2")
    with pytest.raises(UsageError, match="Give --engine ray"):
        config("d.kd", actors="2")
    with pytest.raises(UsageError, match="Did you mean 'ray'"):
        config("d.kd", engine="rays")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="without torchrun"):
        extract(config("d.kd", engine="ray"))


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_not_there(address: str, config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", address.format(unused.getsockname()[1]))
        with pytest.raises(KdpipeError, match=r"no Ray cluster at RAY_ADDRESS=.*refused"):
            extract(config("d.kd", engine="ray"))


def test_without_ray(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"kdpipe\[ray\]"):
        extract(config("d.kd", engine="ray"))
