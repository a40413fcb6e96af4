"""What ``auto`` decides, and what is refused."""

import pytest
import torch
from kdpipe.pipeline.hardware import autocast, pick_batch_size, pick_device, pick_precision, pick_workers
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
