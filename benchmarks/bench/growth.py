"""Extraction and streaming as the rows grow: seconds and memory for each million rows."""

import resource
import time
from pathlib import Path
from typing import Any

import synthetic  # noqa: F401  (registers its data source)
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.stores import open_store
from measure import anonymous_memory, in_child


def make_teacher(num_classes: int) -> torch.nn.Module:
    """A factory for ``python:``: a teacher that costs next to nothing."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, num_classes))


def run(folder: Path, scale: float = 1.0) -> list[dict[str, Any]]:
    """One record for each number of rows."""
    sizes = [int(size * scale) for size in (100_000, 1_000_000, 10_000_000)]
    return [in_child(_measure, folder / f"{num}.kd", num) for num in sizes]


def _measure(out: Path, num: int) -> dict[str, Any]:
    data = f"synthetic:,num={num},classes=10,size=2"
    started = time.perf_counter()
    extract(ExtractConfig(data=data, teacher="python:growth:make_teacher", out=out, batch_size=1024, chunk_rows=65_536))
    extracted = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    store = open_store(out)
    with anonymous_memory() as streaming_peak:
        started = time.perf_counter()
        for _ in store.batches(256, order="chunks"):
            pass
        streamed = time.perf_counter() - started
    millions = num / 1e6
    return {
        "rows": num,
        "extraction, s for each million rows": extracted / millions,
        "streaming, s for each million rows": streamed / millions,
        "extraction, peak resident MB": peak / 1e6,
        "streaming, anonymous MB": streaming_peak() / 1e6,
    }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for record in run(Path(temporary), 0.1):
            print(record)
