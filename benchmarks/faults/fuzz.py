"""Damaged manifests and receipts: a reader may say no, and nothing else."""

import copy
import json
import random
import resource
import time
from pathlib import Path
from typing import Any

from children import Row
from kdpipe.stores import Manifest, Receipt, RefusedError
from kdpipe.stores.files import checksum
from kdpipe.stores.layout import MANIFEST, receipt_file

_VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -0.0, 1e308, "", "x", "../..", "/etc/passwd", "\x00", "é" * 5000,
    [], {}, [[]], {"a": {}}, [0] * 100, "9" * 400, "1.0", "2.0", "xxh3-128:" + "0" * 32,
]  # fmt: skip


def fuzz(store: Path, scratch: Path, inputs: int) -> Row:
    """Read so many damaged documents; only refusals may come out, in bounded time and memory."""
    generator = random.Random(2)
    grid = Manifest.read(store).grid
    documents = [(MANIFEST, (store / MANIFEST).read_bytes()), (receipt_file(0), (store / receipt_file(0)).read_bytes())]
    (scratch / "receipts").mkdir(parents=True)
    accepted, strange, slowest = 0, "", 0.0
    started, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(inputs):
        name, document = documents[number % 2]
        damaged = _damage(document, generator)
        (scratch / name).write_bytes(damaged)
        begun = time.perf_counter()
        try:
            if name == MANIFEST:
                Manifest.read(scratch)
            else:
                Receipt.read(scratch, grid, 0)
            accepted += 1
        except RefusedError:
            pass
        except Exception as error:  # what is looked for
            strange = strange or f"{type(error).__name__}: {error} for {damaged[:200]!r}"
        slowest = max(slowest, time.perf_counter() - begun)
    rate = inputs / (time.perf_counter() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    outcome = (
        f"{strange or 'only refusals'}; {accepted:,} were still valid; slowest {1000 * slowest:.0f} ms, "
        f"memory grew by {grown:.0f} MB; {rate:,.0f} a second"
    )
    return Row("a damaged manifest or receipt is read", inputs, outcome, not strange and slowest < 5 and grown < 200)


def _damage(document: bytes, generator: random.Random) -> bytes:
    kind = generator.random()
    if kind < 0.25:
        data = bytearray(document)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(data)
    if kind < 0.35:
        return document[: generator.randrange(len(document))]
    if kind < 0.37:
        depth = generator.randrange(1, 5000)
        return b'{"format_version": ' + b"[" * depth + b"]" * generator.choice([0, depth])
    body = json.loads(document)
    body.pop("checksum")
    for _ in range(generator.randint(1, 3)):
        _mutate(body, generator)
    body["checksum"] = checksum(json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    return json.dumps(body, ensure_ascii=False).encode()


def _mutate(body: Any, generator: random.Random) -> None:
    """Change, add or drop one value somewhere; the checksum is made right again, so that the schema is reached."""
    while True:
        keys = list(body) if isinstance(body, dict) else list(range(len(body)))
        if not keys:
            return
        key = generator.choice(keys)
        if isinstance(body[key], dict | list) and generator.random() < 0.7:
            body = body[key]
            continue
        if generator.random() < 0.2:
            del body[key]
        else:
            body[key] = copy.deepcopy(generator.choice(_VALUES))  # a later mutation may go into it
        return
