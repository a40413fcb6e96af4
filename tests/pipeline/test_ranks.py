"""Which of torchrun's processes this is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.hardware import pick_device, pick_workers
from kdpipe.pipeline.ranks import Ranks
from kdpipe.stores import UsageError


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def environment(monkeypatch: pytest.MonkeyPatch, *values: object) -> None:
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), values, strict=False):
        monkeypatch.setenv(name, str(value))


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks.from_environment() == Ranks()
    monkeypatch.setenv("RANK", "3")  # of something else than torchrun
    assert Ranks.from_environment() == Ranks()


def test_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, 5, 8, 1, 4)
    assert Ranks.from_environment() == Ranks(rank=5, world_size=8, local_rank=1, local_size=4)


@pytest.mark.parametrize("values", [(2, 2, 0), (-1, 2, 0), (0, 0, 0), (0, 2, 2), ("x", 2, 0), (0, 2, 0, 3)])
def test_what_torchrun_would_not_say(monkeypatch: pytest.MonkeyPatch, values: tuple[object, ...]) -> None:
    environment(monkeypatch, *values)
    with pytest.raises(UsageError, match=r"RANK=.*Start with torchrun"):
        Ranks.from_environment()


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shares_are_equal_and_make_the_whole(length: int, count: int) -> None:
    shares = [Ranks(rank=rank, world_size=count).share(range(length)) for rank in range(count)]
    assert [item for share in shares for item in share] == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_ranks_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert pick_workers(decodes=True) == 8
    environment(monkeypatch, 0, 4, 0, 4)
    assert pick_workers(decodes=True) == 3
    environment(monkeypatch, 0, 40, 0, 40)
    assert pick_workers(decodes=True) == 1


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_every_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On a machine of four GPUs, as torch would say it."""
    chosen: list[int] = []
    for attribute, answer in {
        "is_available": lambda: True,
        "device_count": lambda: 4,
        "set_device": chosen.append,
    }.items():
        monkeypatch.setattr(torch.cuda, attribute, answer)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert pick_device(name) == torch.device("cuda")
    environment(monkeypatch, 7, 8, 3, 4)
    assert pick_device(name) == torch.device("cuda:3")
    assert chosen == [3]
    assert pick_device("cuda:1") == torch.device("cuda:1"), "as the user says"
    environment(monkeypatch, 0, 8, 0, 8)
    with pytest.raises(UsageError, match=r"8 processes here, and there are 4 GPUs.*--nproc-per-node=4"):
        pick_device(name)
