"""The figures that matter most, in small: each must stay within twice its target. For a person, not for CI."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bare_loop
import losses
import overhead
import startup
import streaming

SCALE = 0.1


def main() -> int:
    """Print every figure with its bound; 1 if one is beyond it."""
    failed = 0
    for name, value, bound, more_is_better in _figures():
        fine = value >= bound if more_is_better else value <= bound
        failed += not fine
        sign = ">=" if more_is_better else "<="
        print(f"{'ok  ' if fine else 'SLOW'} {name}: {value:.3g} (should be {sign} {bound:g})", flush=True)
    return int(failed > 0)


def _figures() -> Iterator[tuple[str, float, float, bool]]:
    """Name, median, twice the target (or half of it), whether more is better."""
    with tempfile.TemporaryDirectory(prefix="kdpipe-bench-") as folder:
        for record in streaming.run(Path(folder), SCALE, rivals=False):
            if "times memmap" in record:
                shape = f"C={record['classes']}, {record['order']}"
                yield f"streaming, times memmap, {shape}", record["times memmap"]["median"], 0.5, True
        for record in startup.run(Path(folder), 0.02):
            if record["what"].startswith("kdpipe --help"):
                yield record["what"], record["median"], 3, False
    for record in losses.run(0.2):
        if "broadcasting / kdpipe" in record and record["classes"] == 1000:
            yield "GRKD, broadcasting / kdpipe, C=1000", record["broadcasting / kdpipe"]["median"], 10, True
    for record in overhead.run(0.3, students=("resnet8x4",)):
        for loss in overhead.LOSSES:
            bound = 1 + 2 * (overhead.TARGETS[loss, record["classes"]] - 1)
            yield f"a step with {loss}, C={record['classes']}", record[f"{loss} / labels only"]["median"], bound, False
    for record in bare_loop.run(0.2):
        name = f"extract / bare loop, {record['teacher']}, C={record['classes']}"
        yield name, record["extract / bare loop"]["median"], 1.06, False


if __name__ == "__main__":
    sys.exit(main())
