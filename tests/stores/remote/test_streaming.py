"""Reading a store where it lies: the same rows as from a local one, whatever the cache, the server or others do."""

import errno
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError, KdpipeError, Store, UsageError, files, open_store
from kdpipe.stores.layout import CLASSES, array_file, receipt_file, samples_file
from kdpipe.stores.remote import cache as cache_module
from kdpipe.stores.remote import client
from kdpipe.stores.remote.cache import ChunkCache, default_folder, parse_size
from kdpipe.stores.remote.client import RemoteObjects
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.push import push
from kdpipe.stores.remote.store import RemoteStore
from seaweed import SeaweedServer
from slow_proxy import SlowProxy

ROWS, CLASSES_COUNT, CHUNK_ROWS = 50 * 8, 5, 8  # 50 chunks: more than three windows
CHUNK_BYTES = CHUNK_ROWS * CLASSES_COUNT * 2


@pytest.fixture(scope="module")
def local(write_store: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streamed") / "a.kd"
    write_store(path, ROWS, CLASSES_COUNT, CHUNK_ROWS)
    return path


@pytest.fixture
def url(local: Path, bucket: str) -> str:
    push(local, bucket)
    return bucket


@pytest.fixture
def proxy(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[SlowProxy]:
    with SlowProxy(server.ports["s3"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield proxy


def epoch(store: Store, number: int = 0, **options: Any) -> list[np.ndarray]:
    """An epoch's rows and logits, copied."""
    batches = store.batches(16, order=options.pop("order", "chunks"), epoch=number, **options)
    return [joined(batch) for batch in batches]


def joined(batch: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([batch["row"][:, None], batch["logits"]], axis=1)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) > 0 and all(map(np.array_equal, one, other))


def evict_all(store: Store) -> None:
    for _, _, path in cache_module._chunk_files(store.path.parent):
        path.unlink()


def cached_bytes(folder: Path) -> int:
    return sum(size for _, size, _ in cache_module._chunk_files(folder))


@pytest.mark.parametrize("order", ["random", "chunks", "sequential"])
def test_epochs_are_those_of_the_local_store(order: str, url: str, local: Path) -> None:
    remote, here = open_store(url), open_store(local)
    for number in (0, 1):
        assert same(epoch(remote, number, order=order), epoch(here, number, order=order))
    assert remote.classes.equals(here.classes)
    assert remote.samples(blocks=[0]).equals(here.samples(blocks=[0]))
    assert remote.samples().equals(here.samples())
    assert remote.receipt(3) == here.receipt(3)
    assert str(remote) == url


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=40), name=st.sampled_from(["logits", "ranks"]))
def test_any_rows_in_any_order(rows: list[int], name: str, url: str, local: Path) -> None:
    asked = np.array(rows, np.int64)
    assert np.array_equal(
        open_store(url).read(asked, arrays=name)[name], open_store(local).read(asked, arrays=name)[name]
    )


def test_only_the_manifest_is_read_until_more_is_asked_for(url: str, proxy: SlowProxy) -> None:
    store = open_store(url)
    assert (len(store), proxy.requests) == (ROWS, 1)
    store.read([0])
    store.read([1, 2, 3])
    assert proxy.requests <= 1 + 50 + 17  # receipts, one chunk, and those after it


def test_the_second_epoch_and_the_second_run_ask_for_nothing(url: str, local: Path, proxy: SlowProxy) -> None:
    store = open_store(url)
    first = epoch(store)
    asked = proxy.requests
    assert asked == 1 + 50 + 50  # manifest, receipts, chunks: each once, and whole
    assert same(epoch(store, 1), epoch(open_store(local), 1))
    assert proxy.requests == asked
    assert same(epoch(open_store(url)), first)
    assert proxy.requests == asked + 1
    assert proxy.ranges == 0


def test_chunks_are_fetched_side_by_side_and_ahead(url: str, proxy: SlowProxy) -> None:
    store = open_store(url)
    store.receipt(0)
    proxy.latency = 0.1
    batches = store.batches(16, order="chunks")
    next(batches)
    import time

    time.sleep(0.5)
    # the first window and the one after it, not the rest: nobody has read so far
    assert 1 + 50 + 32 <= proxy.requests <= 1 + 50 + 35
    started = time.perf_counter()
    assert sum(1 for _ in batches) == ROWS // 16 - 1
    assert time.perf_counter() - started < 1.0, "18 chunks one after the other would take 1.8 s"


def test_the_cache_stays_below_its_bound_and_evicts_what_was_used_longest_ago(
    url: str, local: Path, tmp_path: Path, proxy: SlowProxy
) -> None:
    bound = 36 * CHUNK_BYTES
    store = open_store(url, cache=tmp_path / "chunks", cache_bytes=bound)
    for number in (0, 1):
        assert same(epoch(store, number), epoch(open_store(local), number))
        assert cached_bytes(tmp_path / "chunks") <= bound
    assert proxy.requests > 1 + 50 + 50
    used = store.path / array_file("logits", 0, 7)
    store.read([7 * CHUNK_ROWS, 30 * CHUNK_ROWS])  # apart: after a run of chunks, those that follow are fetched too
    os.utime(used, (2e9, 2e9))
    oldest = min(cache_module._chunk_files(tmp_path / "chunks"))[2]
    missing = [b for b in range(50) if not (store.path / array_file("logits", 0, b)).exists()]
    assert len(missing) >= 14, "all of them together are more than there is room for, however full the cache is"
    open_store(url, cache=tmp_path / "chunks", cache_bytes=bound).read(np.array(missing) * CHUNK_ROWS)
    assert used.exists()
    assert not oldest.exists()


def test_a_cache_that_holds_no_two_windows_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"too small.*--cache-size"):
        open_store(url, cache=tmp_path, cache_bytes=31 * CHUNK_BYTES).read([0])


def test_a_random_order_of_more_than_the_cache_holds_is_refused(url: str, tmp_path: Path) -> None:
    store = open_store(url, cache=tmp_path, cache_bytes=49 * CHUNK_BYTES)
    with pytest.raises(UsageError, match="Use --order chunks"):
        epoch(store, order="random")
    assert len(epoch(store, order="chunks")) == ROWS // 16


def test_what_is_mapped_stays_readable_when_another_run_evicts_it(url: str, local: Path) -> None:
    store, here = open_store(url), open_store(local)
    before = store.read(range(100))["logits"].copy()
    evict_all(store)
    assert np.array_equal(store.read(range(100))["logits"], before)
    assert np.array_equal(store.read(range(ROWS))["logits"], here.read(range(ROWS))["logits"])
    evict_all(store)
    assert same(epoch(store), epoch(here))


def test_what_is_evicted_before_it_is_mapped_is_fetched_again(
    url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, here = open_store(url), open_store(local)
    have, evicted = RemoteStore._have, list[str]()

    def then_evicted(self: RemoteStore, record: Any) -> None:
        have(self, record)
        if record.path.startswith("payload.zarr/") and record.path not in evicted:
            evicted.append(record.path)
            (self.path / record.path).unlink()

    monkeypatch.setattr(RemoteStore, "_have", then_evicted)
    assert same(epoch(store), epoch(here))
    assert len(evicted) == 50


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_what_is_damaged_in_the_cache_is_fetched_again(damage: str, url: str, local: Path) -> None:
    store = open_store(url)
    store.read(range(ROWS))
    path = store.path / array_file("logits", 0, 4)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes({"cut": data[:-1], "altered": bytes([data[0] ^ 1]) + data[1:], "empty": b""}[damage])
    assert same(epoch(open_store(url)), epoch(open_store(local)))
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "name",
    [array_file("logits", 0, 9), samples_file(2), CLASSES, receipt_file(5)],
    ids=["chunk", "table", "classes", "receipt"],
)
@pytest.mark.parametrize("damage", ["cut", "altered", "missing", "swapped"])
def test_what_is_damaged_on_the_server_is_refused_by_name(name: str, damage: str, url: str, local: Path) -> None:
    objects = RemoteObjects(Location.parse(url))
    data = (local / name).read_bytes()
    middle = len(data) // 2
    if damage == "missing":
        objects.delete(name)
    else:
        other = (local / array_file("logits", 0, 3)).read_bytes()
        altered = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        objects.replace(name, {"cut": data[:-2], "altered": altered, "swapped": other}[damage])
    store = open_store(url)
    with pytest.raises(CorruptStoreError) as refused:
        _ = store.classes, store.samples(), epoch(store)
    assert url in str(refused.value)


def test_what_is_read_from_the_cache_counts_as_used(url: str) -> None:
    first = open_store(url)
    first.read(range(ROWS))
    for _, _, path in cache_module._chunk_files(first.path.parent):
        os.utime(path, (0, 0))
    open_store(url).read(range(ROWS))
    assert min(cache_module._chunk_files(first.path.parent))[0] > 0


def test_a_full_disk_is_said_and_what_was_read_is_right(
    url: str, local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written, write = [0], files.place_file

    def quota(root: Path, relative: str, data: bytes | memoryview) -> Any:
        written[0] += len(data)
        if written[0] > 20 * CHUNK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root / relative))
        return write(root, relative, data)

    monkeypatch.setattr(cache_module, "place_file", quota)
    seen: list[np.ndarray] = []
    with pytest.raises(KdpipeError, match=r"No space left on device.*--cache-size"):
        seen.extend(joined(batch) for batch in open_store(url, cache=tmp_path).batches(8, order="chunks"))
    here = open_store(local)
    assert all(np.array_equal(part[:, 1:], here.read(part[:, 0].astype(int))["logits"]) for part in seen)


def _run(url: str, cache: Path, size: int, number: int, answers: Any) -> None:
    store = open_store(url, cache=cache, cache_bytes=size)
    answers.put((number, [epoch(store, number) for _ in range(2)]))


def test_runs_that_share_a_small_cache_read_the_right_rows(url: str, local: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    runs = [
        context.Process(target=_run, args=(url, tmp_path / "chunks", 40 * CHUNK_BYTES, number, answers))
        for number in range(3)
    ]
    for run in runs:
        run.start()
    got = dict(answers.get(timeout=60) for _ in runs)
    for run in runs:
        run.join()
    here = open_store(local)
    assert all(same(part, epoch(here, number)) for number, parts in got.items() for part in parts)


def test_a_forked_process_reads_what_is_mapped_and_is_told_of_the_rest(url: str) -> None:
    store = open_store(url)
    expected = store.read([0])["logits"]
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            assert np.array_equal(store.read([1, 0])["logits"][1:], expected)
            store.read([ROWS - 1])
        except BaseException as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "cannot be read in a forked process" in said.read()
    os.waitpid(child, 0)


def test_a_store_survives_pickling_with_its_cache(url: str, tmp_path: Path) -> None:
    store = open_store(url, cache=tmp_path / "mine", cache_bytes=10**6)
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.read([5])["logits"], store.read([5])["logits"])
    assert again.path == store.path


@pytest.mark.parametrize("latency", [0.025, 0.25])
def test_slow_answers_and_errors_change_nothing(latency: float, url: str, local: Path, proxy: SlowProxy) -> None:
    proxy.latency, proxy.fail_every = latency, 7
    assert same(epoch(open_store(url)), epoch(open_store(local)))
    assert proxy.failed >= 10


def test_a_server_that_is_gone_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.3)
    store = open_store(url)
    store.read([0])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(KdpipeError, match="cannot be reached"):
        open_store(url)


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 2 * 10**10), ("1.5 kb", 1500), ("7", 7), ("3 MiB", 3 * 10**6), ("2t", 2 * 10**12)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 PB", "1,5GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="20GB"):
        parse_size(text)


def test_the_cache_lies_where_caches_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == ChunkCache().folder == tmp_path / "kdpipe" / "chunks"
    with pytest.raises(UsageError, match="above 0"):
        ChunkCache(tmp_path, 0)
