"""What it costs to start kdpipe and to open a store, small and large."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from kdpipe.stores import open_store
from measure import ratios, spread, take_turns
from synthetic import write_store

EMPTY = "import click\n\n@click.group()\ndef main():\n    pass\n\nmain()\n"


def run(folder: Path, scale: float = 1.0) -> list[dict[str, Any]]:
    """``kdpipe --help`` against a click program that does nothing; ``store inspect`` and opening, by rows."""
    (folder / "empty.py").write_text(EMPTY)
    large = int(10_000_000 * scale)
    stores = {num: folder / f"{num}.kd" for num in (10_000, large)}
    for num, path in stores.items():
        write_store(path, num, 10, chunk_rows=65_536)
    rounds = max(5, int(15 * scale))
    kdpipe = [sys.executable, "-m", "kdpipe"]
    commands = {
        "empty click program": [sys.executable, str(folder / "empty.py"), "--help"],
        "kdpipe --help": [*kdpipe, "--help"],
        **{f"store inspect, {num:,} rows": [*kdpipe, "store", "inspect", str(path)] for num, path in stores.items()},
    }
    seconds = take_turns({name: _process(command) for name, command in commands.items()}, rounds)
    small_one, large_one = (f"store inspect, {num:,} rows" for num in stores)
    opening = take_turns({str(num): _opening(path) for num, path in stores.items()}, rounds)
    return [
        {"what": "kdpipe --help / empty click program", **ratios(seconds, "kdpipe --help", "empty click program")},
        {"what": "ms of kdpipe --help", **spread([1000 * value for value in seconds["kdpipe --help"]])},
        {"what": f"store inspect, {large:,} rows / 10,000 rows", **ratios(seconds, large_one, small_one)},
        {"what": f"opening a store, {large:,} rows / 10,000 rows", **ratios(opening, str(large), "10000")},
        {"what": "ms to open a store", **spread([10 * value for value in opening["10000"]])},
    ]


def _process(command: list[str]) -> Any:
    return lambda: subprocess.run(command, check=True, capture_output=True)


def _opening(path: Path) -> Any:
    return lambda: [open_store(path) for _ in range(100)]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for record in run(Path(temporary), 0.3):
            print(record)
