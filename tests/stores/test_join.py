"""A data set is joined to a store by sample id: shuffled, shorter and longer ones fit, wrong ones are refused."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.stores import JoinedDataset, MismatchError, UsageError, open_store
from kdpipe.stores.join import match_rows
from torch.utils.data import DataLoader


class Images:
    """A map-style data set whose items tell which sample they are."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    @property
    def sample_ids(self):
        return [f"images/{number:06d}.png" for number in self.numbers]

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, position):
        return torch.tensor(float(self.numbers[position])), self.numbers[position] % 5


class BatchedImages(Images):
    """As data sets that fetch many items at once."""

    fetched: list[list[int]]

    def __getitems__(self, positions):
        self.fetched = [*getattr(self, "fetched", []), positions]
        return [self[position] for position in positions]


@pytest.fixture(scope="module")
def store(tmp_path_factory, make_store):
    path = tmp_path_factory.mktemp("join") / "a.kd"
    make_store(path, 10, 5, 4)
    return open_store(path)


@pytest.mark.parametrize(
    ("numbers", "shared"),
    [
        (range(10), range(10)),
        ([3, 1, 4, 9, 5, 2, 6, 8, 7, 0], range(10)),
        ([7, 2, 5], [2, 5, 7]),
        ([12, 4, 11, 3, 0, 99], [0, 3, 4]),
    ],
    ids=["same", "shuffled", "shorter", "longer"],
)
@pytest.mark.parametrize("dataset_type", [Images, BatchedImages])
def test_every_shared_sample_is_paired_with_its_own_row(store, numbers, shared, dataset_type):
    joined = store.join(dataset_type(numbers))
    assert joined.rows.tolist() == list(shared), "in store order"
    assert len(joined) == len(shared)
    for item in (*joined, *joined.__getitems__(list(range(len(joined))))):
        image, label, row = item
        assert (int(image), label) == (row, row % 5)
        assert type(row) is int


def test_disjoint_data_are_refused_with_examples(store):
    with pytest.raises(MismatchError, match=r"such as 'images/000000.png'.*such as 'images/000050.png'"):
        store.join(Images(range(50, 60)))
    with pytest.raises(MismatchError, match="such as 'none'"):
        store.join(Images([]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], "same sample id twice"),
        (["a", "b"], "2 sample ids for a data set of 3"),
        ([1, 2, 3], "must be texts"),
        (["a", None, "b"], "1 of the sample ids are missing"),
        (["a", "b", "\udcff"], "must be texts"),
    ],
    ids=["duplicate", "too few", "numbers", "missing", "not unicode"],
)
def test_unusable_ids_are_refused(store, ids, message):
    with pytest.raises(UsageError, match=message):
        store.join(Images([1, 2, 3]), ids)


def test_a_data_set_without_ids_is_told_how_to_give_them(store):
    with pytest.raises(UsageError, match=r"store.join\(dataset, sample_ids=...\)"):
        store.join([(0, 0), (1, 1)])
    joined = store.join([(70, 0), (30, 1)], sample_ids=["images/000007.png", "images/000003.png"])
    assert list(joined) == [(30, 1, 3), (70, 0, 7)]


@pytest.mark.parametrize(
    "convert",
    [
        tuple,
        np.array,
        pa.array,
        lambda ids: pa.chunked_array([ids[:1], ids[1:]]),
        lambda ids: pa.array(ids, pa.large_string()),
        lambda ids: pa.array(ids).dictionary_encode(),
    ],
    ids=["tuple", "numpy", "arrow", "chunked", "large", "dictionary"],
)
def test_ids_may_come_in_any_kind_of_list(store, convert):
    dataset = Images([7, 2, 5])
    assert store.join(dataset, convert(dataset.sample_ids)).positions.tolist() == [1, 2, 0]


@given(ours=st.lists(st.text(max_size=3), min_size=1, unique=True), theirs=st.lists(st.text(max_size=3), unique=True))
def test_any_two_lists_of_ids_are_matched(ours, theirs):
    shared = [row for row, name in enumerate(ours) if name in theirs]
    column = pa.chunked_array([ours[:2], ours[2:]], pa.string())
    if not shared:
        with pytest.raises(MismatchError):
            match_rows(column, theirs, "the store")
    else:
        rows, positions = match_rows(column, theirs, "the store")
        assert rows.tolist() == shared
        assert [theirs[position] for position in positions] == [ours[row] for row in shared]


def test_many_items_are_fetched_at_once_where_the_data_set_can(store):
    dataset = BatchedImages([9, 4, 2])
    joined = store.join(dataset)
    assert [item[-1] for item in joined.__getitems__([2, 0])] == [9, 2]
    assert dataset.fetched == [[0, 2]]


@pytest.mark.parametrize("order", ["random", "chunks"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_data_loader_streams_it(store, order, num_workers):
    joined = store.join(BatchedImages([3, 1, 4, 20, 9, 5, 2, 6]))
    sampler = joined.batch_sampler(3, order=order, seed=1)
    loader = DataLoader(joined, batch_sampler=sampler, num_workers=num_workers)  # pyright: ignore
    assert len(loader) == 3
    seen = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        rows = []
        for images, labels, batch_rows in loader:
            assert images.tolist() == batch_rows.tolist()
            assert (labels == batch_rows % 5).all()
            assert store.read(batch_rows.numpy())["logits"].shape == (len(batch_rows), 5)
            rows += batch_rows.tolist()
        assert sorted(rows) == [1, 2, 3, 4, 5, 6, 9]
        seen.append(rows)
    assert seen[0] != seen[1]


def test_a_joined_data_set_ends(store):
    joined = store.join(Images(range(10)))
    assert isinstance(joined, JoinedDataset)
    assert len([joined[index] for index in range(len(joined))]) == 10
    with pytest.raises(IndexError):
        joined[10]
