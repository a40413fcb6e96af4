"""The order of an epoch is a pure function of (seed, epoch, row), the same for ever and everywhere."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import BatchSampler, UsageError, epoch_order, streaming
from kdpipe.stores.streaming import ORDERS, WINDOW_CHUNKS, order_pieces

SEEDS = st.one_of(st.integers(0, 5), st.integers(-(2**63), 2**64 - 1))
SUBSETS = st.sets(st.integers(0, 400), max_size=150).map(lambda rows: np.array(sorted(rows), np.int64))


def splitmix64_key(row: int, seed: int, stream: int) -> int:
    """The key of a row in plain integers, from the published finaliser: an independent reading of the format."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    start = mix((mix(seed % 2**64) + stream) % 2**64)
    return mix(((row + 1) * 0x9E3779B97F4A7C15 + start) % 2**64)


@pytest.mark.parametrize("order", ORDERS)
@given(rows=SUBSETS, chunk_rows=st.integers(1, 50), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_every_row_comes_once(order, rows, chunk_rows, seed, epoch):
    positions = epoch_order(rows, chunk_rows, order=order, seed=seed, epoch=epoch)
    assert sorted(positions.tolist()) == list(range(len(rows)))


# these lists are part of the format: a change breaks the resumption of runs and every published result
@pytest.mark.parametrize(
    ("order", "seed", "epoch", "expected"),
    [
        ("random", 0, 0, [2, 4, 6, 18, 8, 5, 10, 1, 16, 15, 12, 13, 14, 11, 17, 7, 19, 0, 9, 3]),
        ("random", 0, 1, [12, 18, 14, 13, 8, 0, 10, 2, 9, 15, 4, 7, 11, 19, 16, 3, 6, 1, 5, 17]),
        ("random", 1, 0, [14, 8, 1, 6, 9, 0, 2, 11, 17, 7, 16, 10, 5, 19, 3, 12, 18, 4, 15, 13]),
        ("chunks", 0, 0, [33, 2, 32, 4, 6, 37, 8, 27, 36, 39, 1, 16, 13, 21, 14, 7, 34, 20, 24, 29,
                          18, 31, 5, 23, 10, 35, 26, 38, 15, 12, 25, 28, 11, 17, 19, 0, 22, 30, 9, 3]),
        ("chunks", 0, 1, [12, 27, 33, 39, 18, 8, 26, 32, 28, 2, 22, 36, 37, 15, 16, 38, 21, 30, 34, 1,
                          29, 14, 25, 13, 0, 10, 9, 35, 4, 7, 11, 24, 19, 3, 20, 31, 6, 5, 23, 17]),
        ("sequential", 0, 1, list(range(20))),
    ],
)  # fmt: skip
def test_the_order_never_changes(order, seed, epoch, expected):
    # one row is one chunk, 40 chunks are two windows
    assert epoch_order(np.arange(len(expected)), 1, order=order, seed=seed, epoch=epoch).tolist() == expected


@given(rows=SUBSETS, seed=SEEDS, epoch=st.integers(0, 1000))
def test_the_order_is_that_of_the_published_keys(rows, seed, epoch):
    expected = sorted(range(len(rows)), key=lambda place: splitmix64_key(int(rows[place]), seed, 2 * epoch))
    assert epoch_order(rows, 10, order="random", seed=seed, epoch=epoch).tolist() == expected


@given(rows=SUBSETS, chunk_rows=st.integers(1, 9), seed=SEEDS, epoch=st.integers(0, 1000))
def test_chunks_are_ordered_by_their_keys_and_rows_by_theirs_within_a_window(rows, chunk_rows, seed, epoch):
    chunks = sorted({int(row) // chunk_rows for row in rows}, key=lambda c: splitmix64_key(c, seed, 2 * epoch + 1))
    number = max(1, len(chunks) // 16)
    lengths = [len(chunks) // number + (w < len(chunks) % number) for w in range(number)]
    windows = [w for w, length in enumerate(lengths) for _ in range(length)]
    window = dict(zip(chunks, windows, strict=True))
    expected = sorted(
        range(len(rows)),
        key=lambda p: (window[int(rows[p]) // chunk_rows], splitmix64_key(int(rows[p]), seed, 2 * epoch)),
    )
    assert epoch_order(rows, chunk_rows, order="chunks", seed=seed, epoch=epoch).tolist() == expected


@given(rows=SUBSETS, seed=SEEDS, epoch=st.integers(0, 1000))
def test_a_subset_keeps_the_order_of_the_whole(rows, seed, epoch):
    whole = epoch_order(np.arange(401), 10, order="random", seed=seed, epoch=epoch)
    subset = rows[epoch_order(rows, 10, order="random", seed=seed, epoch=epoch)]
    assert subset.tolist() == whole[np.isin(whole, rows)].tolist()


@given(chunk_rows=st.integers(1, 12), seed=SEEDS, epoch=st.integers(0, 1000))
def test_chunk_order_reads_few_chunks_at_a_time_each_once(chunk_rows, seed, epoch):
    rows = np.arange(400)
    chunks = epoch_order(rows, chunk_rows, order="chunks", seed=seed, epoch=epoch) // chunk_rows
    first = {int(chunk): np.flatnonzero(chunks == chunk)[0] for chunk in np.unique(chunks)}
    last = {int(chunk): np.flatnonzero(chunks == chunk)[-1] for chunk in np.unique(chunks)}
    for place in range(len(rows)):
        assert sum(first[chunk] <= place <= last[chunk] for chunk in first) < 2 * WINDOW_CHUNKS == 32


@pytest.mark.parametrize("order", ["random", "chunks"])
def test_seed_and_epoch_change_the_order(order):
    orders = {
        tuple(epoch_order(np.arange(200), 5, order=order, seed=seed, epoch=epoch).tolist())
        for seed in range(-2, 4)
        for epoch in range(6)
    }
    assert len(orders) == 36


@pytest.mark.parametrize("order", ["random", "chunks"])
def test_first_places_are_shared_out_evenly(order):
    firsts = [epoch_order(np.arange(10), 1, order=order, seed=7, epoch=epoch)[0] for epoch in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


@given(
    num_rows=st.integers(0, 60),
    batch_size=st.integers(1, 70),
    drop_last=st.booleans(),
    order=st.sampled_from(ORDERS),
)
def test_batches_cover_an_epoch_in_its_order(num_rows, batch_size, drop_last, order):
    rows = np.arange(num_rows) * 3
    sampler = BatchSampler(rows, 7, batch_size, order=order, seed=3, drop_last=drop_last)
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len(batch) == batch_size for batch in batches[:-1])
        streamed = [position for batch in batches for position in batch]
        expected = epoch_order(rows, 7, order=order, seed=3, epoch=epoch).tolist()
        kept = num_rows // batch_size * batch_size if drop_last else num_rows
        assert streamed == expected[:kept]
        assert all(type(position) is int for position in streamed)


@given(rows=SUBSETS, chunk_rows=st.integers(1, 50), seed=SEEDS, order=st.sampled_from(ORDERS))
def test_an_order_made_in_pieces_is_the_whole_one(rows, chunk_rows, seed, order):
    whole = epoch_order(rows, chunk_rows, order=order, seed=seed, epoch=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_PIECE_BITS", 3)
        patch.setattr(streaming, "_BLOCK_ROWS", 4)
        pieces = list(order_pieces(rows, chunk_rows, order=order, seed=seed, epoch=1))
    assert len(pieces) >= min(2, len(rows) // 16)
    assert [place for piece in pieces for place in piece.tolist()] == whole.tolist()


@given(start=st.integers(0, 90), length=st.integers(0, 200), chunk_rows=st.integers(1, 50), seed=SEEDS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_range_of_rows_is_ordered_as_its_list(order, start, length, chunk_rows, seed):
    rows = range(start, start + length)
    orders = [epoch_order(r, chunk_rows, order=order, seed=seed, epoch=2) for r in (rows, np.array(rows, np.int64))]
    assert orders[0].tolist() == orders[1].tolist()


def test_the_memory_of_an_order_does_not_grow_with_the_rows():
    def peak(num_rows, order):
        tracemalloc.start()
        for piece in order_pieces(range(num_rows), 512, order=order, seed=0, epoch=0):
            del piece
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_PIECE_BITS", 12)
        for order in ORDERS:
            assert peak(400_000, order) < 1.5 * peak(40_000, order)


def test_wrong_orders_and_batch_sizes_are_refused():
    with pytest.raises(UsageError, match="ascending, without repetition"):
        epoch_order(np.array([1, 3, 2]), 1, order="random", seed=0, epoch=0)
    with pytest.raises(UsageError, match="ascending, without repetition"):
        BatchSampler(np.array([1, 1]), 1, 2)
    with pytest.raises(UsageError, match=r"Unknown order 'radnom'\. Did you mean 'random'"):
        epoch_order(np.arange(3), 1, order="radnom", seed=0, epoch=0)
    with pytest.raises(UsageError, match="Known: chunks, random, sequential"):
        BatchSampler(np.arange(3), 1, 2, order="shuffle")
    with pytest.raises(UsageError, match="at least 1, not 0"):
        BatchSampler(np.arange(3), 1, 0)
