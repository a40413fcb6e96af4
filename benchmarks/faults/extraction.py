"""Kills of an extraction: at random instants and at every step of writing a file, alone and with a second process."""

import hashlib
import importlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from children import Child, Row
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.data import load_data
from kdpipe.stores import files
from kdpipe.stores.checks.verify import verify

ROWS, CHUNK_ROWS = 898, 64
DATA, TEACHER = "digits,split=train", "python:faulty_teacher:teacher"

MODULE = '''
import os
import torch
from torch import nn

class Teacher(nn.Module):
    """A linear teacher that writes down how many samples it sees."""

    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        with open(os.environ["TEACHER_LOG"], "a") as log:
            log.write(f"{len(x)}\\n")
        return self.fc(x.flatten(1))

def teacher(num_classes):
    return Teacher(num_classes)
'''


def prepare(folder: Path) -> None:
    """Put the teacher's module and its log where the children find them; load what every child would load."""
    load_data(DATA)
    importlib.import_module("zarr")
    (folder / "faulty_teacher.py").write_text(MODULE)
    os.environ["TEACHER_LOG"] = str(folder / "seen")
    os.chdir(folder)


def seen(folder: Path) -> list[int]:
    """The sizes of the batches the teacher has seen."""
    log = folder / "seen"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def extraction(out: Path, chunk_rows: int = CHUNK_ROWS) -> Callable[[], object]:
    """An extraction as a function for a child."""
    config = ExtractConfig(data=DATA, teacher=TEACHER, out=out, chunk_rows=chunk_rows, batch_size=32)
    return lambda: extract(config)


def content(root: Path) -> dict[str, str]:
    """Every file's hash but the manifest's, whose times differ."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def reference(folder: Path, chunk_rows: int = CHUNK_ROWS) -> dict[str, str]:
    """The content of a store that was never interrupted."""
    out = folder / f"reference-{chunk_rows}.kd"
    if not out.exists():
        Child(extraction(out, chunk_rows)).wait()
    return content(out)


def random_kills(folder: Path, kills: int, processes: int) -> Row:
    """SIGKILL at random instants until so many have struck; every store must end as the reference."""
    generator, expected = random.Random(0), reference(folder)
    out, struck, stores, repeated, right = folder / "killed.kd", 0, 0, [], True
    length, begun = _length(folder), len(seen(folder))
    struck_here = 0
    while struck < kills or out.exists() or not repeated:
        children = [Child(extraction(out)) for _ in range(processes)]
        if struck < kills:
            now = sum(child.kill_after(generator.uniform(0.0, length)) for child in children)
            struck, struck_here = struck + now, struck_here + now
        if 0 not in [child.wait() for child in children]:
            continue
        Child(extraction(out)).wait()  # a process killed beside one that ends: the next command tidies up
        right &= content(out) == expected and verify(out, deep=True).whole and not _left_over(out)
        batches = seen(folder)[begun:]
        extra = sum(size for size in batches if size > 1) - ROWS
        if struck_here:
            repeated.append(extra / struck_here / CHUNK_ROWS)
            right &= repeated[-1] <= 1
        stores, begun, struck_here = stores + 1, len(seen(folder)), 0
        _remove(out)
    mean = sum(repeated) / len(repeated)
    outcome = (
        f"{stores} stores, {'all' if right else 'NOT all'} byte-identical to an uninterrupted one; computed again, "
        f"per kill: {mean:.2f} chunks on average, at most {max(repeated):.2f}"
    )
    who = "one process" if processes == 1 else f"{processes} processes on one store"
    return Row(f"SIGKILL of an extraction at a random instant, {who}", struck, outcome, right)


def step_kills(folder: Path, *, beside: bool = False) -> list[Row]:
    """SIGKILL at every step of every file: written, synced, renamed, durable.

    With ``beside``, a second process works on the same store and is left alone.
    """
    chunk_rows = 300
    expected = reference(folder, chunk_rows)
    right, times, worst, step = True, {}, 0, 0
    while True:
        out = folder / "step.kd"
        before = len(seen(folder))
        name = folder / "step"
        victim = Child(_killed_at(step, name, extraction(out, chunk_rows)))
        other = Child(extraction(out, chunk_rows)) if beside else None
        victim.wait()
        right &= other is None or other.wait() == 0
        if not name.exists():
            _remove(out)
            break
        kind = name.read_text()
        name.unlink()
        times[kind] = times.get(kind, 0) + 1
        Child(extraction(out, chunk_rows)).wait()
        worst = max(worst, sum(size for size in seen(folder)[before:] if size > 1) - ROWS)
        right &= content(out) == expected and not _left_over(out) and worst <= chunk_rows
        _remove(out)
        step += 1
    outcome = (
        f"{'all' if right else 'NOT all'} byte-identical after resume; at most {worst} rows computed again "
        f"(a chunk is {chunk_rows})"
    )
    where = "of one of two processes, when its file is" if beside else "when a file is"
    return [Row(f"SIGKILL {where} {kind}, at every file", count, outcome, right) for kind, count in times.items()]


def _killed_at(step: int, name: Path, function: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        count = 0

        def on_step(kind: str, _: Path) -> None:
            nonlocal count
            if count == step:
                name.write_text(kind)
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        files.on_step = on_step
        return function()

    return run


def _length(folder: Path) -> float:
    """Seconds that an extraction takes."""
    started = time.perf_counter()
    Child(extraction(folder / "timed.kd")).wait()
    _remove(folder / "timed.kd")
    return time.perf_counter() - started


def _left_over(root: Path) -> list[Path]:
    return [*root.rglob("*.tmp"), *root.glob("locks/*")]


def _remove(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
