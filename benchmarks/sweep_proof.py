"""A sweep of 24 trials on glyph100-LT, killed and resumed, gives the table and the students of one that was not.

Usage: python benchmarks/sweep_proof.py [--write] GLYPH100.npz [--epochs N] [--kills N]   (the file: benchmarks/glyph100.py)

Trains a teacher on the long-tailed set, extracts it, and runs the same sweep twice: once to its end, and once killed
(SIGKILL) at random moments and started again. Exits with 1 if any cell of the tables but `seconds`, or any byte of the
students' weights, differs. With --write (make sweeps) what was found goes into docs/sweeps.md.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pages
import pyarrow.parquet as pq
import torch

HERE = Path(__file__).parent
SWEEP = "--student kdpipe:convnet_tiny --loss ce --loss kd --loss ltkd --loss grkd --set lr=0.1,0.05 --seeds 0,1,2 --data-seed 0 --checkpoint-seconds 2"


def kdpipe(command: str) -> subprocess.Popen[bytes]:
    """A command, where the data's module is found."""
    return subprocess.Popen(
        [sys.executable, "-m", "kdpipe", *shlex.split(command)], cwd=HERE, stdout=subprocess.DEVNULL
    )


def finish(command: str) -> float:
    """Run a command to its end; its seconds."""
    print(f"$ kdpipe {command}", flush=True)
    started = time.perf_counter()
    if kdpipe(command).wait() != 0:
        sys.exit("it failed")
    return time.perf_counter() - started


def kill_at_random(command: str, kills: int, seconds: float) -> list[str]:
    """Start a command and kill it, several times; says after how many seconds."""
    chance, killed = random.Random(0), []
    for number in range(1, kills + 1):
        process = kdpipe(command)
        after = chance.uniform(0.2, 0.9) * seconds / kills
        try:
            process.wait(after)
            print(f"kill {number}: it was finished within {after:.1f} s already", flush=True)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"kill {number}: after {after:.1f} s", flush=True)
            killed.append(f"{after:.0f} s")
    return killed


def compare(whole: Path, killed: Path) -> tuple[str, int]:
    """What differs, and how much."""
    tables = [pq.read_table(folder / "trials.parquet").drop_columns(["seconds"]) for folder in (whole, killed)]
    differing = [name for name in tables[0].column_names if tables[0][name] != tables[1][name]]
    states = tables[0]["state"].to_pylist()
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    students = sorted(path.relative_to(whole) for path in whole.rglob("student.safetensors"))
    others = [path for path in students if (whole / path).read_bytes() != (killed / path).read_bytes()]
    found = (
        f"{len(states)} trials ({counts}); columns of the tables that differ: {differing or 'none'}; of "
        f"{len(students)} students, weights that differ: {[str(path) for path in others] or 'none'}."
    )
    return found, len(differing) + len(others)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    data = f"python:glyph100:load,file={given.file.resolve()},part="
    train, val = f"{data}train,imbalance=100,max_per_class=100", f"{data}val"
    with tempfile.TemporaryDirectory(prefix="sweep-proof-") as folder:
        root = Path(folder)
        finish(f"distill --data {train} --student kdpipe:resnet8x4 --epochs 2 --lr 0.05 --out {root}/teacher")
        finish(
            f"extract --data {train} --teacher kdpipe:resnet8x4,weights={root}/teacher/student.safetensors --out {root}/glyphs.kd"
        )
        sweep = f"sweep --store {root}/glyphs.kd --data {train} --val {val} --epochs {given.epochs} {SWEEP}"
        seconds = finish(f"{sweep} --out {root}/whole")
        killed = kill_at_random(f"{sweep} --out {root}/killed", given.kills, seconds)
        finish(f"{sweep} --out {root}/killed")
        found, differing = compare(root / "whole", root / "killed")
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores, torch {torch.__version__}: 24 trials of "
        f"{given.epochs} epochs on glyph100-LT, imbalance 100, which took {seconds:.0f} s, killed {len(killed)} times "
        f"(after {', '.join(killed) or 'no time'}) and started again. {found}"
    )
    print(text)
    if given.write and not differing:
        pages.write_part(HERE.parent / "docs" / "sweeps.md", "benchmarks/sweep_proof.py --write", text)
    sys.exit(min(1, differing))


if __name__ == "__main__":
    main()
