"""Reading ahead: every chunk is brought before it is used, none much earlier, and nothing is left running."""

import threading
import time

import numpy as np
import pytest
from kdpipe.stores import BatchSampler
from kdpipe.stores.read_ahead import read_ahead

WINDOW, BATCH = 160, 32


def windows(count=6):
    """Windows of 160 rows in 16 chunks each."""
    return iter([(WINDOW, np.arange(16 * number, 16 * (number + 1))) for number in range(count)])


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "kdpipe-read-ahead"]


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def test_chunks_come_one_window_ahead_and_no_more():
    brought: list[int] = []
    batches = read_ahead(range(30), BATCH, windows(), brought.append)
    for number, batch in enumerate(batches):
        assert batch == number
        window = number * BATCH // WINDOW
        expected = list(range(16 * min(6, window + 2)))
        assert wait_until(lambda expected=expected: brought == expected)
        time.sleep(0.002)
        assert brought == expected
    assert not threads()


def test_an_epoch_gone_on_with_brings_only_what_is_left():
    brought: list[int] = []
    list(read_ahead(range(12), BATCH, windows(4), brought.append, skipped=330))
    assert sorted(brought) == list(range(32, 64))  # rows 330 on are of the third window and the fourth


def test_a_slow_disk_does_not_hold_the_batches():
    gate = threading.Event()
    batches = read_ahead(range(20), BATCH, windows(), lambda chunk: gate.wait(5))
    assert [next(batches) for _ in range(20)] == list(range(20))
    gate.set()
    batches.close()
    assert not threads()


def test_an_epoch_left_early_ends_the_thread():
    batches = read_ahead(range(20), BATCH, windows(), lambda chunk: None)
    next(batches)
    batches.close()
    assert not threads()


def test_what_bringing_raises_is_raised_where_the_batches_are_used():
    def bring(chunk):
        raise OSError(5, "Input/output error", f"chunk {chunk}")

    slowly = (time.sleep(0.001) for _ in range(5000))
    with pytest.raises(OSError, match="chunk 0"):
        list(read_ahead(slowly, BATCH, windows(), bring))
    assert not threads()


@pytest.mark.parametrize("order", ["random", "chunks", "sequential"])
@pytest.mark.parametrize("rows", [range(3, 997), np.arange(0, 1000, 3)], ids=["all", "some"])
def test_windows_are_what_the_batches_read(order, rows):
    sampler = BatchSampler(rows, 10, 1, order=order, seed=5)
    sampler.set_epoch(3)
    places = np.concatenate(list(sampler.arrays()))
    start = 0
    for num_rows, chunks in sampler.windows():
        read = np.asarray(rows)[places[start : start + num_rows]] // 10
        assert set(read.tolist()) == set(chunks.tolist())
        start += num_rows
    assert start == len(rows)
