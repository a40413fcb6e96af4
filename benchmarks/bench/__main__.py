"""Run all benchmarks, each part in a process of its own; writes results/*.json and docs/performance.md.

    python benchmarks/bench [PART ...]

BENCH_SCALE (default 1) scales sizes and rounds; without a scale of 1 the document is not written, only printed.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import report
from measure import in_child
from parts import PARTS, describe_machine, run_part

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"


def main(names: list[str]) -> None:
    """Run the parts named, by default all."""
    scale = float(os.environ.get("BENCH_SCALE", "1"))
    environment = in_child(describe_machine)
    for name in names or PARTS:
        started = time.perf_counter()
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        with _environment(name):
            records = in_child(run_part, name, scale)
        seconds = time.perf_counter() - started
        print(f"{seconds:.0f} s", file=sys.stderr)
        result = {"part": name, "scale": scale, "seconds": seconds, "machine": environment, "records": records}
        if scale == 1:
            RESULTS.mkdir(exist_ok=True)
            path = RESULTS / f"{name}-{environment['device']}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
        else:
            print(json.dumps(records, indent=1))
    if scale == 1:
        report.write()


@contextmanager
def _environment(name: str) -> Iterator[None]:
    """Without the allocator's settings for the part that measures what they do."""
    settings = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
    for key in settings if name == "onnx" else ():
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
