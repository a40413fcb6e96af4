"""Transfers: side by side, bounded by bytes, ended by the first error."""

import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdpipe.stores.remote import transfer
from kdpipe.stores.remote.transfer import in_parallel


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES_IN_FLIGHT", 10)
    monkeypatch.setattr(transfer, "MAX_IN_FLIGHT", 4)


class Gauge:
    """Work that notes how much of it is done at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: list[int] = []
        self.most: list[int] = []

    def work(self, size: int) -> int:
        with self.lock:
            self.now.append(size)
            self.most = max(self.most, list(self.now), key=len)
            assert len(self.now) <= 4
            assert sum(self.now) <= 10 or len(self.now) == 1
        time.sleep(0.001)
        with self.lock:
            self.now.remove(size)
        return -size


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 15), max_size=30))
def test_all_are_done_and_no_more_than_fits_is_in_flight(sizes: list[int], small: None) -> None:
    done: list[tuple[int, int]] = []
    in_parallel(sizes, Gauge().work, size=lambda size: size, on_done=lambda *one: done.append(one))
    assert done == [(size, -size) for size in sizes]


def test_several_are_in_flight(small: None) -> None:
    gauge = Gauge()
    in_parallel([1] * 40, gauge.work, size=lambda size: size)
    assert len(gauge.most) == 4


def test_the_first_error_ends_it(small: None) -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 5:
            raise ValueError("the fifth")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="the fifth"):
        in_parallel(range(1000), work)
    assert len(begun) < 50
