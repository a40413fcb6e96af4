"""The client: a real server answers it, and whatever goes wrong becomes one sentence without a secret."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from kdpipe.stores import CorruptStoreError, KdpipeError, MissingExtraError, UsageError
from kdpipe.stores.remote import client
from kdpipe.stores.remote.client import RemoteObjects, proves
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.objects import Objects, open_objects
from kdpipe.stores.remote.profile import profile_settings
from seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer
from slow_proxy import SlowProxy


def objects_at(url: str) -> Objects:
    return open_objects(Location.parse(url))


@pytest.fixture(params=["remote", "local"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """Object storage and a folder must behave alike."""
    return objects_at(request.getfixturevalue("bucket") if request.param == "remote" else str(tmp_path / "place"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.2)


def test_objects_are_written_once_read_listed_and_deleted(objects: Objects) -> None:
    assert objects.read("a/b", limit=10) is None
    assert objects.children() == ([], [])
    written = objects.create("a/b", b"first")
    assert written is not None
    assert written.bytes == 5
    assert objects.create("a/b", b"second") is None
    assert bytes(objects.read("a/b", limit=5) or b"") == b"first"
    objects.replace("a/b", b"third!")
    objects.replace("c", b"")
    assert {path: found.bytes for path, found in objects.found().items()} == {"a/b": 6, "c": 0}
    assert objects.children() == (["a"], ["c"])
    with pytest.raises(CorruptStoreError, match="at most 5"):
        objects.read("a/b", limit=5)
    objects.delete("a/b")
    objects.delete("a/b")
    assert list(objects.found()) == ["c"]


def test_a_tag_proves_the_bytes_it_was_made_of_and_no_others(bucket: str) -> None:
    objects = objects_at(bucket)
    written = objects.create("x", b"content")
    assert written is not None
    assert proves(written, b"content")
    assert not proves(written, b"Content")
    assert proves(objects.found()["x"], b"content")


def test_requests_that_fail_are_tried_again(
    bucket: str, server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlowProxy(server.ports["s3"], latency=0.005, fail_every=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        objects = objects_at(bucket)
        for number in range(6):
            objects.replace(str(number), bytes([number]) * 1000)
            assert bytes(objects.read(str(number), limit=1000) or b"") == bytes([number]) * 1000
        assert proxy.failed >= 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "WRONGSECRET"}, r"403 SignatureDoesNotMatch.*credentials"),
        ({"AWS_ACCESS_KEY_ID": "WRONGKEY"}, r"403 InvalidAccessKeyId.*credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, r"cannot be reached.*endpoint.*run the same command again"),
    ],
)
def test_what_goes_wrong_is_said_in_a_sentence(
    changes: dict[str, str], says: str, bucket: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    objects = objects_at(bucket)
    tries: list[Callable[[], object]] = [
        lambda: objects.read("x", limit=1), lambda: objects.create("x", b""), objects.found, objects.children,
    ]  # fmt: skip
    for attempt in tries:
        with pytest.raises(KdpipeError, match=says) as failed:
            attempt()
        text = str(failed.value)
        assert text.startswith(bucket)
        assert failed.value.__suppress_context__
        for secret in (ACCESS_KEY, SECRET_KEY, "WRONG", "Signature="):
            assert secret not in text


def test_a_signed_address_is_used_and_never_shown(bucket: str, server: SeaweedServer, impatient: None) -> None:
    objects_at(bucket).replace("a", b"web")
    web = f"{server.files}/{bucket.removeprefix('s3://')}?sig=SECRET".replace("http://", "http://user:WORD@")
    objects = objects_at(web)
    assert bytes(objects.read("a", limit=3) or b"") == b"web"
    assert objects.read("b", limit=3) is None
    for attempt in (
        objects.children,
        lambda: objects_at("http://user:WORD@127.0.0.1:1/x?sig=SECRET").read("a", limit=1),
    ):
        with pytest.raises(KdpipeError) as failed:
            attempt()
        assert "SECRET" not in str(failed.value)
        assert "WORD" not in str(failed.value)


def test_a_bucket_that_is_not_there_is_not_an_empty_one(bucket: str) -> None:
    with pytest.raises(KdpipeError, match="no such bucket"):
        objects_at("s3://no-such-bucket/a").read("x", limit=1)


def test_a_forked_process_is_told_instead_of_hanging(bucket: str) -> None:
    objects = objects_at(bucket)
    objects.replace("x", b"1")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            objects.read("x", limit=1)
        except BaseException as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "multiprocessing_context='spawn'" in said.read()
    os.waitpid(child, 0)


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(MissingExtraError, match=r"kdpipe\[remote\]"):
        RemoteObjects(Location.parse("s3://bucket/a"))


def test_a_profile_gives_what_the_environment_does_not(
    bucket: str, server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in server.environment:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile team]\nregion = eu-x\nendpoint_url = {server.endpoint}\n")
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    (tmp_path / "credentials").write_text(f"[team]\n{keys}[default]\naws_access_key_id = OTHER\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert profile_settings() == {"access_key_id": "OTHER"}
    monkeypatch.setenv("AWS_PROFILE", "team")
    objects = objects_at(bucket)
    objects.replace("x", b"by profile")
    assert bytes(objects.read("x", limit=10) or b"") == b"by profile"
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert set(profile_settings()) == {"endpoint"}, "the environment wins"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[profile other]\n", "no profile 'team'"),
        ("[profile team]\nsso_session = x\n", "gets its keys by sso_session"),
        ("aws_secret_access_key = SECRET\n", "cannot be read"),
    ],
)
def test_a_profile_that_does_not_help_is_refused(
    config: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    with pytest.raises(UsageError, match=says) as refused:
        profile_settings()
    assert "SECRET" not in str(refused.value)
