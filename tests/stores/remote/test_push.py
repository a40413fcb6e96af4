"""Pushing: whole or not there, whatever happens on the way and whoever else pushes."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import CorruptStoreError, KdpipeError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.layout import CLASSES, array_file, receipt_file
from kdpipe.stores.remote import client
from kdpipe.stores.remote.client import RemoteObjects
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.objects import Objects, open_objects
from kdpipe.stores.remote.pull import MARK, pull
from kdpipe.stores.remote.push import CLAIM, PushClaim, _Push, push
from seaweed import BUCKET, OPEN_BUCKET, SeaweedServer
from slow_proxy import SlowProxy

CHUNK = array_file("logits", 1, 2)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def objects_at(url: str) -> Objects:
    return open_objects(Location.parse(url))


def contents_at(url: str) -> dict[str, bytes]:
    objects = objects_at(url)
    return {path: bytes(objects.read(path, limit=10**6) or b"") for path in objects.found()}


@pytest.fixture(scope="session")
def other(write_store: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the same shape and id as `store`, of other content."""
    path = tmp_path_factory.mktemp("other") / "a.kd"
    write_store(path, 18, 5, 4, num_views=2, seed=1)
    return path


@pytest.mark.parametrize("remote", [True, False])
def test_what_is_pushed_is_there_byte_for_byte(
    remote: bool, store: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue("bucket") if remote else str(tmp_path / "shared.kd")
    steps: list[tuple[int, int]] = []
    first = push(store, url, on_progress=lambda done, total: steps.append((done, total)))
    assert contents_at(url) == files_of(store)
    assert (first.bytes_sent, first.finished_before) == (first.bytes, False)
    assert steps == sorted(steps)
    assert steps[-1] == (first.bytes, first.bytes)
    again = push(store, url)
    assert (again.bytes_sent, again.finished_before) == (0, True)


def test_a_push_that_is_interrupted_leaves_no_store_and_goes_on(
    store: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, before = [0], RemoteObjects._put

    def breaking(self: RemoteObjects, path: str, data: bytes, mode: Any) -> Any:
        writes[0] += 1
        if writes[0] == 12:
            raise KeyboardInterrupt
        return before(self, path, data, mode)

    monkeypatch.setattr(RemoteObjects, "_put", breaking)
    with pytest.raises(KeyboardInterrupt):
        push(store, bucket)
    with pytest.raises(CorruptStoreError, match="push is not finished"):
        pull(bucket, tmp_path / "early.kd")
    assert CLAIM in contents_at(bucket)
    done = push(store, bucket)
    assert 0 < done.bytes_sent < done.bytes
    assert contents_at(bucket) == files_of(store)


def test_what_a_kill_leaves_after_the_manifest_goes_with_the_next_push_and_pull(
    store: Path, bucket: str, tmp_path: Path
) -> None:
    push(store, bucket)
    pull(bucket, tmp_path / "a.kd")
    objects_at(bucket).replace(CLAIM, b"{}")
    (tmp_path / "a.kd" / MARK).write_text("{}")
    assert push(store, bucket).finished_before
    assert pull(bucket, tmp_path / "a.kd").finished_before
    assert contents_at(bucket) == files_of(tmp_path / "a.kd") == files_of(store)


def damage_all(data: bytes) -> list[bytes]:
    return [data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", data + b"\0"]


@pytest.mark.parametrize("name", [CHUNK, CLASSES, receipt_file(3)])
def test_what_is_damaged_on_the_server_is_never_pulled_and_mended_by_the_next_push(
    name: str, store: Path, bucket: str, tmp_path: Path
) -> None:
    push(store, bucket)
    objects = objects_at(bucket)
    for number, damaged in enumerate([*damage_all((store / name).read_bytes()), None]):
        objects.delete(name) if damaged is None else objects.replace(name, damaged)
        with pytest.raises(CorruptStoreError) as refused:
            pull(bucket, tmp_path / f"{number}.kd")
        assert any(f"{place} " in str(refused.value) for place in (f"{bucket}/{name}", f"receipts at {bucket}"))
        assert not (tmp_path / f"{number}.kd" / "manifest.json").exists()
        assert push(store, bucket).bytes_sent == (store / name).stat().st_size
        assert contents_at(bucket) == files_of(store)


def test_objects_that_changed_places_are_found(store: Path, bucket: str, tmp_path: Path) -> None:
    push(store, bucket)
    objects = objects_at(bucket)
    objects.replace(CHUNK, (store / array_file("logits", 0, 2)).read_bytes())
    with pytest.raises(CorruptStoreError, match="not what its receipt says"):
        pull(bucket, tmp_path / "a.kd")


@pytest.mark.parametrize("same", [True, False])
def test_two_pushers_at_once_never_mix(same: bool, store: Path, other: Path, bucket: str, tmp_path: Path) -> None:
    outcomes: dict[int, object] = {}
    stores = [store, store if same else other]
    start = threading.Barrier(2)

    def run(number: int) -> None:
        start.wait()
        try:
            outcomes[number] = push(stores[number], bucket)
        except RefusedError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [number for number, outcome in outcomes.items() if isinstance(outcome, RefusedError)]
    assert len(refused) == (0 if same else 1)
    assert contents_at(bucket) == files_of(stores[1 - refused[0] if refused else 0])


def test_a_claim_that_comes_after_another_push_has_ended_is_given_back(
    store: Path, other: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = _Push._take_claim

    def late(self: _Push, *, alone: bool) -> None:
        monkeypatch.setattr(_Push, "_take_claim", take)
        push(store, bucket)
        take(self, alone=alone)

    monkeypatch.setattr(_Push, "_take_claim", late)
    with pytest.raises(RefusedError, match="already holds another store"):
        push(other, bucket)
    assert contents_at(bucket) == files_of(store)


def test_a_place_that_another_push_has_begun_is_refused(store: Path, other: Path, bucket: str) -> None:
    objects = objects_at(bucket)
    for claim in (b"not json", b'{"store_id":"abc","content":"xxh3-128:' + b"0" * 32 + b'"}'):
        objects.replace(CLAIM, claim)
        with pytest.raises(RefusedError, match=f"is being pushed to {bucket}"):
            push(store, bucket)
        assert contents_at(bucket) == {CLAIM: claim}


def test_a_claim_that_changes_hands_stops_the_first_pusher(
    store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take() -> None:
        taken = PushClaim(store_id="another", content=f"xxh3-128:{'0' * 32}")
        objects_at(bucket).replace(CLAIM, __import__("msgspec").json.encode(taken))

    _after_sending(take, monkeypatch)
    with pytest.raises(RefusedError, match=r"Another store \(another\)"):
        push(store, bucket)
    assert "manifest.json" not in contents_at(bucket)


def test_a_place_that_is_emptied_meanwhile_gets_no_manifest(
    store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty() -> None:
        for name in contents_at(bucket):
            objects_at(bucket).delete(name)

    _after_sending(empty, monkeypatch)
    with pytest.raises(RefusedError, match="emptied"):
        push(store, bucket)
    assert contents_at(bucket) == {}


def _after_sending(what: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something each time that a push has sent objects."""
    send = _Push._send

    def then(self: _Push, records: Any) -> None:
        send(self, records)
        what()

    monkeypatch.setattr(_Push, "_send", then)


def test_a_server_without_conditional_writes_is_refused(
    store: Path, bucket: str, server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = bucket.replace(BUCKET, OPEN_BUCKET)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")  # a signature would be of the header too
    with SlowProxy(server.ports["s3"], without="if-none-match") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(RefusedError, match=r"no conditional writes.*--alone"):
            push(store, bucket)
        assert contents_at(bucket) == {}
        push(store, bucket, alone=True)
        assert contents_at(bucket) == files_of(store)


def test_a_place_that_holds_other_things_is_refused(store: Path, other: Path, bucket: str) -> None:
    push(other, f"{bucket}/other.kd")
    before = contents_at(bucket)
    with pytest.raises(RefusedError, match=f"such as {bucket}/a.kd"):
        push(store, bucket)
    assert contents_at(bucket) == before


def test_what_is_damaged_here_is_not_sent(store: Path, bucket: str, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "a.kd"))
    data = (damaged / CHUNK).read_bytes()
    (damaged / CHUNK).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptStoreError, match="not sent"):
        push(damaged, bucket)
    assert {CHUNK, "manifest.json"} & set(contents_at(bucket)) == set()


def test_what_cannot_be_pushed_is_refused_before_anything_is_written(
    store: Path, content: Callable[..., Any], bucket: str, tmp_path: Path
) -> None:
    content(18, 5, 4).write(tmp_path / "unfinished.kd", [0])
    with pytest.raises(RefusedError, match="not finished"):
        push(tmp_path / "unfinished.kd", bucket)
    with pytest.raises(UsageError, match="read only"):
        push(store, "https://example.org/a.kd")
    with pytest.raises(CorruptStoreError, match="no kdpipe store"):
        push(tmp_path, bucket)
    assert contents_at(bucket) == {}


@pytest.mark.parametrize("latency", [0.025, 0.25])
def test_slow_answers_and_errors_change_nothing(
    latency: float, store: Path, bucket: str, server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlowProxy(server.ports["s3"], latency=latency, fail_every=9) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        push(store, bucket)
        pull(bucket, tmp_path / "b.kd")
        assert proxy.failed >= 5
        proxy.latency = 0
        assert contents_at(bucket) == files_of(tmp_path / "b.kd") == files_of(store)


def test_a_server_that_is_killed_while_it_is_written_to_and_read_from(
    write_store: Callable[..., Any], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in a push: said, and the same push goes on. Killed and back in a pull and in a stream: waited for."""
    write_store(tmp_path / "a.kd", 40, 5, 1, num_views=2)
    server = SeaweedServer(tmp_path / "own")
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setattr(client, "_MAX_BACKOFF_SECONDS", 0.5)
    restart, killed, streaming = threading.Thread(target=server.start), threading.Event(), threading.Event()
    streamed: list[np.ndarray] = []

    def kill(done: int, total: int) -> None:
        if 2 * done > total and server.pid is not None:
            server.kill()

    def kill_and_restart(done: int, total: int) -> None:
        if 2 * done > total and not killed.is_set() and streaming.wait(30):
            server.kill()
            restart.start()
            killed.set()

    def stream() -> None:
        store = open_store(bucket)
        for row in range(40):
            streamed.append(store.read([row])["logits"])
            streaming.set()
            killed.wait(30)

    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(client, "_RETRY_SECONDS", 0.2)
            with pytest.raises(KdpipeError, match="run the same command again"):
                push(tmp_path / "a.kd", bucket, on_progress=kill)
        server.start()
        done = push(tmp_path / "a.kd", bucket)
        assert 0 < done.bytes_sent < done.bytes
        reader = threading.Thread(target=stream)
        reader.start()
        pull(bucket, tmp_path / "b.kd", on_progress=kill_and_restart)
        reader.join()
        restart.join()
        assert files_of(tmp_path / "b.kd") == files_of(tmp_path / "a.kd")
        assert verify(tmp_path / "b.kd", deep=True).whole
        assert np.array_equal(np.concatenate(streamed), open_store(tmp_path / "a.kd").read(range(40))["logits"])
    finally:
        server.kill()
