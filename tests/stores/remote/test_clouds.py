"""gs:// and az:// : what is true of s3:// is true there too, with the environment that these services' tools use.

The servers are stand-ins on loopback that check authorisation and conditions; tags there are no MD5.
"""

import base64
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clouds import KEY, TOKEN, AzureCloud, Cloud, GoogleCloud
from kdpipe.stores import CorruptStoreError, KdpipeError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.layout import array_file
from kdpipe.stores.remote import client
from kdpipe.stores.remote.catalog import catalog
from kdpipe.stores.remote.pull import pull
from kdpipe.stores.remote.push import push

pytest.importorskip("obstore")
SECRETS = (TOKEN, KEY, "TOKENSECRET", "ACCOUNTKEYSECRET", "SharedKey", "Bearer")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that says nothing, and whose machine has no role."""
    import os

    for name in os.environ:
        if name.startswith(("GOOGLE_", "AZURE_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=[GoogleCloud, AzureCloud], ids=["gs", "az"])
def cloud(request: pytest.FixtureRequest, clean: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with request.param() as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_store_is_pushed_listed_verified_streamed_and_pulled(store: Path, cloud: Cloud, tmp_path: Path) -> None:
    url = f"{cloud.address}/stores/a.kd"
    done = push(store, url)
    assert (done.url, done.bytes_sent) == (url, done.bytes)
    assert {key.removeprefix("stores/a.kd/"): data for key, data in cloud.objects.items()} == files_of(store)
    again = push(store, url)
    assert (again.bytes_sent, again.finished_before) == (0, True)
    assert [(entry.name, entry.state) for entry in catalog(cloud.address)] == [("stores/a.kd", "complete")]
    assert verify(url, deep=True).whole
    remote, local = open_store(url), open_store(store)
    for view in (0, 1):
        assert np.array_equal(remote.read(range(18), view=view)["logits"], local.read(range(18), view=view)["logits"])
    pull(url, tmp_path / "b.kd")
    assert files_of(tmp_path / "b.kd") == files_of(store)


def test_another_store_never_mixes_with_one_that_is_there(
    store: Path, write_store: Callable[..., Any], cloud: Cloud, tmp_path: Path
) -> None:
    write_store(tmp_path / "other.kd", 18, 5, 4, num_views=2, seed=1)
    push(store, cloud.address)
    with pytest.raises(RefusedError, match="already holds another store"):
        push(tmp_path / "other.kd", cloud.address)
    assert cloud.objects == files_of(store)


def test_what_is_damaged_there_is_refused_by_name_and_mended(store: Path, cloud: Cloud, tmp_path: Path) -> None:
    push(store, cloud.address)
    name = array_file("logits", 1, 2)
    cloud.objects[name] = bytes([cloud.objects[name][0] ^ 1]) + cloud.objects[name][1:]
    with pytest.raises(CorruptStoreError, match=f"{cloud.address}/{name} is not what its receipt says"):
        pull(cloud.address, tmp_path / "b.kd")
    assert push(store, cloud.address).bytes_sent == len(cloud.objects[name])
    assert cloud.objects == files_of(store)


def test_wrong_credentials_are_refused_at_once_and_no_secret_is_said(
    store: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    push(store, cloud.address)
    before = dict(cloud.objects)
    for name, value in cloud.wrong.items():
        monkeypatch.setenv(name, value)
    for attempt in (lambda: push(store, cloud.address), lambda: open_store(cloud.address)):
        with pytest.raises(KdpipeError, match=r"refused \(403.*credentials") as failed:
            attempt()
        said = str(failed.value) + caplog.text
        assert not [secret for secret in (*SECRETS, *cloud.wrong.values()) if secret in said]
    assert cloud.objects == before


@pytest.mark.parametrize(
    ("address", "environment", "says"),
    [
        ("gs://team/a.kd", {}, "no credentials were found.*GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://team/a.kd", {}, "no account is named.*AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "az://team/a.kd",
            {"AZURE_STORAGE_ACCOUNT_NAME": "team"},
            "no credentials were found.*AZURE_STORAGE_ACCOUNT_KEY",
        ),
    ],
)
def test_without_credentials_it_is_said_how_to_give_them(
    address: str, environment: dict[str, str], says: str, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KdpipeError, match=says) as failed:
        open_store(address)
    assert "AWS_" not in str(failed.value)


ACCOUNT_FILE = '{"type": "service_account", "client_email": "a@b", "private_key_id": "k", "private_key": "SECRETLINE"}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be opened"),
        ("not json, SECRETLINE", "not one of Google's"),
        ('{"type": "service_account", "private_key": "SECRETLINE"}', "not one of Google's"),
        (ACCOUNT_FILE, "not one of Google's"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_said_without_its_content(
    text: str | None, says: str, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "key.json").write_text(text)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(UsageError, match=f"GOOGLE_APPLICATION_CREDENTIALS.*{says}") as failed:
        open_store("gs://team/a.kd")
    assert "SECRETLINE" not in str(failed.value)


def test_a_key_that_is_none_is_said(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "team")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "SECRET LINE")
    with pytest.raises(UsageError, match="AZURE_STORAGE_ACCOUNT_KEY") as failed:
        open_store("az://team/a.kd")
    assert "SECRET LINE" not in str(failed.value)


def test_a_service_account_signs_for_itself(
    store: Path, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOOGLE_APPLICATION_CREDENTIALS: the file's own key signs each token, and its bytes are nowhere else."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, to make a key")
    made = subprocess.run([openssl, "genrsa", "2048"], check=True, capture_output=True, text=True)
    account = {"type": "service_account", "client_email": "team@example", "private_key_id": "k1"}
    (tmp_path / "key.json").write_text(json.dumps({**account, "private_key": made.stdout}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    asked: list[str] = []

    class Server(GoogleCloud):
        def authorises(self, request: Any) -> bool:
            asked.append(request.headers["Authorization"])
            return True

    with Server() as cloud:
        monkeypatch.setenv("GOOGLE_BASE_URL", cloud.endpoint)
        push(store, cloud.address)
        assert cloud.objects == files_of(store)
    for said in asked:
        head, claims, _ = said.removeprefix("Bearer ").split(".")
        assert decoded(head)["kid"] == "k1"
        assert decoded(claims)["iss"] == "team@example"


def decoded(part: str) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
