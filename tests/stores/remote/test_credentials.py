"""Credentials that stop being good while they are used: refused with the cause, and nothing is lost or wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import KdpipeError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.remote.pull import pull
from kdpipe.stores.remote.push import push
from seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer
from slow_proxy import SlowProxy

REFUSED = r"the server refused \(403 ExpiredToken\).*not expired"


@pytest.fixture
def proxy(server: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowProxy]:
    """All requests go through it, until it says that the credentials have expired."""
    with SlowProxy(server.ports["s3"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield proxy


def test_they_expire_in_a_push(store: Path, bucket: str, proxy: SlowProxy) -> None:
    proxy.expires_after = 15
    with pytest.raises(KdpipeError, match=REFUSED) as refused:
        push(store, bucket)
    _says_no_secret(refused.value)
    proxy.expires_after = None
    with pytest.raises(KdpipeError):
        open_store(bucket)  # no half a store
    done = push(store, bucket)
    assert 0 < done.bytes_sent < done.bytes
    assert verify(bucket, deep=True).whole


def test_they_expire_in_a_pull(store: Path, bucket: str, proxy: SlowProxy, tmp_path: Path) -> None:
    push(store, bucket)
    proxy.expires_after = proxy.requests + 20
    with pytest.raises(KdpipeError, match=REFUSED) as refused:
        pull(bucket, tmp_path / "a.kd")
    _says_no_secret(refused.value)
    assert not (tmp_path / "a.kd/manifest.json").exists()
    proxy.expires_after = None
    done = pull(bucket, tmp_path / "a.kd")
    assert 0 < done.bytes_fetched < done.bytes
    assert verify(tmp_path / "a.kd", deep=True).whole


def test_they_expire_in_a_stream(
    write_store: Callable[..., Any], bucket: str, proxy: SlowProxy, tmp_path: Path
) -> None:
    write_store(tmp_path / "a.kd", 100, 5, 1)  # more chunks than are fetched ahead
    push(tmp_path / "a.kd", bucket)
    expected = open_store(tmp_path / "a.kd").read(range(100))["logits"]
    remote = open_store(bucket, cache=tmp_path)
    seen = [remote.read([0])["logits"]]
    proxy.expires_after = proxy.requests
    with pytest.raises(KdpipeError, match=REFUSED) as refused:
        seen.extend(remote.read([row])["logits"] for row in range(1, 100))
    _says_no_secret(refused.value)
    np.testing.assert_array_equal(np.concatenate(seen), expected[: len(seen)])
    proxy.expires_after = None
    np.testing.assert_array_equal(open_store(bucket, cache=tmp_path).read(range(100))["logits"], expected)


def _says_no_secret(error: KdpipeError) -> None:
    for secret in (ACCESS_KEY, SECRET_KEY, "Signature", "SECRETTOKEN"):
        assert secret not in str(error)
