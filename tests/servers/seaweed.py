"""A real S3 server on loopback, for the tests of remote stores; also run by benchmarks/bench/remote.py."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

BUCKET = "kdtest"
OPEN_BUCKET = "kdtest-open"  # anybody may write there
ACCESS_KEY, SECRET_KEY = "AKIAKDPIPETEST", "the-secret-of-the-test-server"
_SERVICES = ("master", "volume", "filer", "s3")


class SeaweedServer:
    """SeaweedFS in one process, with one user, a bucket for it and one for everybody. It can be killed and started again.

    Args:
        folder: for its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(_SERVICES, _free_ports(len(_SERVICES)), strict=True))
        self.pid: int | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def files(self) -> str:
        """Where the server shows its buckets as plain web folders, without credentials."""
        return f"http://127.0.0.1:{self.ports['filer']}/buckets"

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment must say."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = [f"{action}:{OPEN_BUCKET}" for action in ("Read", "Write", "List")]
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {"name": "team", "credentials": keys, "actions": ["Admin"]},
                        {"name": "anonymous", "actions": actions},
                    ]
                }
            )
        )
        command = [
            str(Path(sysconfig.get_path("scripts")) / "weed"), "server", f"-dir={data}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-master.port={self.ports['master']}", "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms",
            f"-volume.port={self.ports['volume']}", "-volume.max=32", "-filer", f"-filer.port={self.ports['filer']}",
            "-s3", f"-s3.port={self.ports['s3']}", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.pid = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).pid
        _end_with_the_tests(self.pid)
        self._wait()

    def kill(self) -> None:
        """End it at once, by its own process id; what it has stored stays."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # another worker of the tests may have started it
                os.waitpid(self.pid, 0)
            self.pid = None
        for port in self.ports.values():  # it puts sockets there, and leaves them
            for number in (port, port + 10_000):
                for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                    path.unlink(missing_ok=True)

    def _wait(self) -> None:
        """Until an object can be written: the gateway answers before there is a volume to write to."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                for bucket in (BUCKET, OPEN_BUCKET):  # a folder there is a bucket
                    _put(f"{self.files}/{bucket}/ready", b"ready")
                with socket.create_connection(("127.0.0.1", self.ports["s3"]), timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"SeaweedFS does not start; see {self.folder / 'log'}")


@contextlib.contextmanager
def shared_server(folder: Path) -> Iterator[SeaweedServer]:
    """One server for all processes that ask for it with the same folder: the first starts it, the last ends it."""
    server, users = SeaweedServer(folder), folder / "users.json"
    with _locked(folder):
        if users.exists() and (state := json.loads(users.read_text()))["users"]:
            server.ports, server.pid = state["ports"], state["pid"]
        else:
            state = {"users": 0}
            server.start()
        users.write_text(json.dumps({"users": state["users"] + 1, "ports": server.ports, "pid": server.pid}))
    try:
        yield server
    finally:
        with _locked(folder):
            state = json.loads(users.read_text())
            users.write_text(json.dumps({**state, "users": state["users"] - 1}))
            if state["users"] == 1:
                server.kill()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end_with_the_tests(pid: int) -> None:
    """See that the server does not outlive tests that are killed."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    watch = 'while kill -0 "$0" && kill -0 "$1"; do sleep 1; done; kill -9 "$1"'
    nothing = subprocess.DEVNULL
    subprocess.Popen(["sh", "-c", watch, str(owner), str(pid)], stdin=nothing, stdout=nothing, stderr=nothing)


def _put(address: str, data: bytes) -> None:
    kind = {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(address, data, kind, method="PUT"), timeout=5):
        pass


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and whose number plus 10,000 is free too: SeaweedFS puts a second service there.

    All lie below those that the system gives to clients: one of these could take a port while the server is down.
    Processes that begin at once have ids side by side, and look far from each other.
    """
    found: list[int] = []
    for port in range(11_000 + os.getpid() * 97 % 10_000, 22_000):
        if len(found) < count and all(map(_is_free, (port, port + 10_000))):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
