"""What ``auto`` decides, and what is refused."""

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kdpipe.pipeline.config import DistillConfig, ExtractConfig
from kdpipe.pipeline.hardware import (
    autocast,
    keep_large_buffers,
    pick_batch_size,
    pick_device,
    pick_precision,
    pick_workers,
)
from kdpipe.stores.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == kind
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"The device '{name}' is not there"):
        pick_device(name)


def test_auto_precision_is_reduced_only_on_a_gpu() -> None:
    assert pick_precision("auto", CPU, on_gpu="bf16") == "fp32"
    assert pick_precision("auto", CUDA, on_gpu="bf16") == "bf16"
    assert pick_precision("fp16", CPU, on_gpu="bf16") == "fp16"
    assert pick_precision("fp32", CUDA, on_gpu="bf16") == "fp32"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_batch_sizes_are_powers_of_two_that_fall_with_the_input() -> None:
    sizes = [pick_batch_size(elements, CPU) for elements in (1, 64, 3 * 32 * 32, 3 * 224 * 224, 10**9)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(8 <= size <= 1024 and size & (size - 1) == 0 for size in sizes)
    assert pick_batch_size(3 * 224 * 224, CPU) < pick_batch_size(3 * 224 * 224, CUDA)


def test_workers_are_for_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_workers(decodes=False) == 0
    for cores, workers in ((2, 2), (64, 8), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert pick_workers(decodes=True) == workers


KEPT = """
from pathlib import Path
import torch
from kdpipe.pipeline.hardware import keep_large_buffers

def resident():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

def in_heap(address):
    line = next(l for l in Path("/proc/self/maps").read_text().splitlines() if l.endswith("[heap]"))
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    return start <= address < end

torch.ones(1000)
print(keep_large_buffers())
size = 100_000_000
buffer = torch.ones(size // 4)
print(in_heap(buffer.data_ptr()))
held = resident()
last = torch.ones(size // 4)  # the top of the heap, which is what would be trimmed
del last
print(resident() - held > size // 2)
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
@pytest.mark.parametrize(("variables", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_large_buffers_are_kept_unless_the_user_has_set_the_allocator(variables: dict[str, str], kept: bool) -> None:
    """Seen from outside: a large tensor lies in the heap, and its memory stays when it is freed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", KEPT], env=clean | variables, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [str(kept)] * 3


def test_tunables_are_the_user_s_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")
    assert keep_large_buffers() is False


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda _: None)
    assert keep_large_buffers() is False


@pytest.mark.parametrize("stage", ["extract", "distill"])
def test_both_stages_keep_buffers_on_a_cpu_alone(stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = importlib.import_module(f"kdpipe.pipeline.{stage}")
    called = []
    monkeypatch.setattr(module, "keep_large_buffers", lambda: called.append(True))
    monkeypatch.setattr(module, "pick_device", lambda _: torch.device("meta"))
    configs = {
        "extract": ExtractConfig(data="none", teacher="kdpipe:x", out=tmp_path),
        "distill": DistillConfig(data="none", student="kdpipe:x", out=tmp_path),
    }
    for _ in range(2):
        with pytest.raises(UsageError, match="data scheme 'none'"):
            getattr(module, stage)(configs[stage])
        monkeypatch.setattr(module, "pick_device", lambda _: CPU)
    assert called == [True]
