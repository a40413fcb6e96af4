"""A store in object storage, 25 ms away: training from it against training from a local copy, and pulling it.

The server is SeaweedFS on this machine, behind a proxy that adds the latency to every request.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kdpipe.pipeline.losses import kd
from kdpipe.pipeline.models import create_model
from kdpipe.stores import Store, open_store
from kdpipe.stores.remote.pull import pull
from kdpipe.stores.remote.push import push
from kdpipe.stores.remote.transfer import MAX_IN_FLIGHT
from measure import ratios, spread, take_turns
from synthetic import write_store

SERVERS = Path(__file__).parents[2] / "tests" / "servers"
sys.path.insert(0, str(SERVERS))

from seaweed import BUCKET, SeaweedServer  # noqa: E402

LATENCY = 0.025
NUM_CLASSES, CHUNK_ROWS, BATCH_SIZE = 1000, 512, 256
TRAINED, PULLED = f"s3://{BUCKET}/trained.kd", f"s3://{BUCKET}/pulled.kd"


def run(scale: float = 1.0) -> list[dict[str, Any]]:
    """A record of training, and one of pulling without and with the latency."""
    num_rows, num_pulled = CHUNK_ROWS * max(48, int(96 * scale)), 4096 * max(4, int(96 * scale))
    with tempfile.TemporaryDirectory(prefix="kdpipe-bench-") as name:
        folder = Path(name)
        write_store(folder / "a.kd", num_rows, NUM_CLASSES, chunk_rows=CHUNK_ROWS)
        write_store(folder / "b.kd", num_pulled, NUM_CLASSES)
        with _server(folder / "server") as server:
            push(folder / "a.kd", TRAINED)
            push(folder / "b.kd", PULLED)
            pulls = [_pulling(folder, server, latency, scale) for latency in (0.0, LATENCY)]
            with _latency(server, LATENCY):
                return [_training(folder, num_rows), *pulls]


def _training(folder: Path, num_rows: int) -> dict[str, Any]:
    """Epochs of the same student from the local store and from the remote one, the first of these with an empty cache."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    student = create_model("convnet_tiny", NUM_CLASSES, 3).to(device)
    images = torch.randn(BATCH_SIZE, 3, 32, 32, device=device)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01)

    def step(logits: np.ndarray) -> None:
        loss = kd(student(images[: len(logits)]), torch.from_numpy(logits).to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    local = open_store(folder / "a.kd")
    _epoch(local, step, 0)
    remote = open_store(TRAINED, cache=folder / "chunks")
    remote.receipt(0)  # reads all receipts: once for a store, whatever the epochs
    first = _epoch(remote, step, 0)
    later = [(_epoch(local, step, epoch), _epoch(remote, step, epoch)) for epoch in range(1, 4)]
    rates = [here["steps per second"] for here, _ in later]
    return {
        "part": "training",
        "rows x classes": f"{num_rows} x {NUM_CLASSES}",
        "latency": LATENCY,
        "device": device.type,
        "first epoch": first,
        "first epoch / local rate": first["steps per second"] / float(np.median(rates)),
        "later epochs / local rate": spread(
            [there["steps per second"] / here["steps per second"] for here, there in later]
        ),
        "target of later epochs": 0.9,
    }


def _epoch(store: Store, step: Any, epoch: int) -> dict[str, float]:
    """Steps per second of an epoch, and how long the student waited for its targets."""
    waited, steps, started = 0.0, 0, time.perf_counter()
    batches = store.batches(BATCH_SIZE, order="chunks", epoch=epoch, drop_last=True)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        step(batch["logits"])
        steps += 1
    seconds = time.perf_counter() - started
    return {"steps per second": steps / seconds, "seconds": seconds, "seconds waited": waited}


def _pulling(folder: Path, server: SeaweedServer, latency: float, scale: float) -> dict[str, Any]:
    """A pull; against the client library alone, which keeps nothing, or writes the same files and checks nothing.

    Files are kept in memory where the system has a folder for that: it is the transfer that is measured, not a disk.
    """
    from obstore.store import from_url

    in_memory = Path("/dev/shm")
    with (
        _latency(server, latency),
        tempfile.TemporaryDirectory(prefix="kdpipe-bench-", dir=in_memory if in_memory.is_dir() else folder) as kept,
    ):
        target = Path(kept) / "pulled.kd"
        store = from_url(PULLED, client_options={"allow_http": True})
        objects = [one for page in store.list() for one in page]
        num_bytes = sum(one["size"] for one in objects)

        def client() -> None:
            with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
                for _ in pool.map(lambda one: store.get(one["path"]).bytes(), objects):
                    pass

        def client_to_files() -> None:
            shutil.rmtree(target, ignore_errors=True)
            with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
                for _ in pool.map(lambda one: _keep(target / one["path"], store.get(one["path"]).bytes()), objects):
                    pass

        def kdpipe() -> None:
            shutil.rmtree(target, ignore_errors=True)
            pull(PULLED, target)

        candidates = {"client": client, "client to files": client_to_files, "pull": kdpipe}
        seconds = take_turns(candidates, max(3, int(7 * scale)))
    return {
        "part": "pull",
        "latency": latency,
        "MB": num_bytes / 1e6,
        "MB per second": {name: spread([num_bytes / 1e6 / s for s in all_]) for name, all_ in seconds.items()},
        "pull / client rate": ratios(seconds, "client", "pull"),
        "pull / rate of the client to files": ratios(seconds, "client to files", "pull"),
        "target": 0.8,
    }


def _keep(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@contextmanager
def _server(folder: Path) -> Iterator[SeaweedServer]:
    server = SeaweedServer(folder)
    server.start()
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def _latency(server: SeaweedServer, latency: float) -> Iterator[None]:
    """Reach the server through a proxy that adds so many seconds; directly where that is none."""
    if not latency:
        yield
        return
    command = [sys.executable, SERVERS / "slow_proxy.py", str(server.ports["s3"]), str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{int(proxy.stdout.readline())}"
        try:
            yield
        finally:
            os.environ["AWS_ENDPOINT_URL"] = server.endpoint
            proxy.kill()


if __name__ == "__main__":
    for record in run(0.5):
        print(record)
