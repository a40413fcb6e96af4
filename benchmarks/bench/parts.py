"""The parts of the benchmarks, and the machine they run on."""

import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# part -> module, function, whether it wants a folder for its files
PARTS = {
    "streaming": ("streaming", "run", True),
    "streaming-memory": ("streaming", "memory", True),
    "shuffling": ("shuffling", "run", False),
    "losses": ("losses", "run", False),
    "overhead": ("overhead", "run", False),
    "students": ("overhead", "students", False),
    "extraction": ("bare_loop", "run", False),
    "onnx": ("onnx_teacher", "run", False),
    "startup": ("startup", "run", True),
    "growth": ("growth", "run", True),
    "remote": ("remote", "run", False),
}


def run_part(name: str, scale: float) -> list[dict[str, Any]]:
    """The records of one part."""
    module, function, wants_folder = PARTS[name]
    run = getattr(importlib.import_module(module), function)
    if not wants_folder:
        records = run(scale)
    else:
        with tempfile.TemporaryDirectory(prefix="kdpipe-bench-") as folder:
            records = run(Path(folder), scale)
    return records if isinstance(records, list) else [records]


def describe_machine() -> dict[str, Any]:
    """Processor, memory, device and versions, for every results file."""
    from importlib.metadata import version

    import torch
    from kdpipe.stores.reader import physical_memory

    gpu = torch.cuda.is_available()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": "gpu" if gpu else "cpu",
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(physical_memory() / 1e9),
        "system": f"{os.uname().sysname} {os.uname().release.split('-')[0]}",
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: version(name) for name in ("torch", "numpy", "zarr", "pyarrow", "numba", "onnxruntime")},
        "allocator": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
