"""``--runtime onnx``: the same logits, proved on the data, or none."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.recheck import recheck
from kdpipe.stores import open_store
from kdpipe.stores.errors import KdpipeError, MismatchError, MissingExtraError, RefusedError, UsageError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

DATA = "digits,split=test"
NETWORK = """
import torch
from torch import nn
from kdpipe.pipeline.models import create_model
def teacher(num_classes):
    torch.manual_seed(0)
    network = create_model("resnet8x4", num_classes, 1)
    network(torch.randn(8, 1, 8, 8))
    return network
class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
    def forward(self, x):
        return self.fc(x.flatten(1)) * (1 if len(x) <= 2 else 1.01)
class Sorted(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x[:, 0])[:, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]]
"""


@pytest.fixture(autouse=True)
def networks(module: Callable[[str, str], None]) -> None:
    module("networks", NETWORK)


def config(out: str, network: str = "teacher", **settings: object) -> ExtractConfig:
    given = {"runtime": "onnx", "codec": "float32", "batch_size": 50, "chunk_rows": 120} | settings
    return ExtractConfig(data=DATA, teacher=f"python:networks:{network}", out=Path(out), **given)  # pyright: ignore[reportArgumentType]


def test_both_runtimes_store_the_same_logits_under_another_name(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    torch_made = extract(config("torch.kd", runtime="torch")).manifest
    onnx_made = extract(config("onnx.kd")).manifest
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    rows = np.arange(torch_made.num_samples)
    ours = open_store("onnx.kd").read(rows, arrays=("logits",))["logits"]
    theirs = open_store("torch.kd").read(rows, arrays=("logits",))["logits"]
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(np.ptp(theirs)))
    assert (torch_made.precision, onnx_made.precision) == ("fp32", "fp32/onnx")
    assert torch_made.store_id != onnx_made.store_id
    assert torch_made.teacher.checksum == onnx_made.teacher.checksum
    assert torch_made.teacher.num_parameters == onnx_made.teacher.num_parameters
    assert set(onnx_made.teacher.libraries) - set(torch_made.teacher.libraries) == {"onnxruntime"}


def test_one_store_has_one_runtime() -> None:
    extract(config("d.kd"))
    assert extract(config("d.kd")).computed == 0
    with pytest.raises(RefusedError, match="precision"):
        extract(config("d.kd", runtime="torch"))


def test_torch_rechecks_what_onnxruntime_made() -> None:
    extract(config("d.kd"))
    replay = recheck("d.kd", teacher="python:networks:teacher", data=DATA)
    assert replay.findings == ()
    assert replay.largest_difference is not None
    assert 0 <= replay.largest_difference < 1e-4


def test_a_branch_that_tracing_loses_is_measured_and_refused() -> None:
    """One per cent is lost for batches of more than the two rows that are traced."""
    with pytest.raises(MismatchError, match=r"first 32 samples: they differ by up to 0\.0\d+, .* Use --runtime torch"):
        extract(config("d.kd", "Branch"))
    assert not Path("d.kd").exists()


def test_a_network_that_cannot_be_exported(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KdpipeError, match=r"cannot be exported to ONNX .*linalg_eigvalsh.* Use --runtime torch"):
        extract(config("d.kd", "Sorted"))
    assert not Path("d.kd").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"precision": "bf16"}, "not in bf16. Leave --precision out"),
        ({"codec": "factorised"}, "factorised.*Use --runtime torch"),
        ({"runtime": "onxx"}, "Unknown runtime 'onxx'. Did you mean 'onnx'"),
    ],
)
def test_what_onnxruntime_cannot_do_is_refused_before_anything_runs(settings: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        extract(config("d.kd", **settings))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_libraries_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"kdpipe\[onnx\]"):
        extract(config("d.kd"))
