"""What a teacher does for itself: batches that fit, and runtimes by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.teachers import load_teacher
from kdpipe.stores import UsageError, open_store
from kdpipe.stores.errors import DeviceMemoryError

CPU = torch.device("cpu")
MODULE = '''
import torch
from torch import nn

class Small(nn.Module):
    """Holds batches of so many samples."""

    def __init__(self, num_classes, holds):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.holds, self.seen = nn.Linear(64, num_classes), holds, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.fc(x.flatten(1))

def teacher(num_classes, holds=5000):
    return Small(num_classes, holds)
'''


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_teacher.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("holds", "found", "tried"), [(5, 4, [32, 16, 8, 4]), (1, 1, [32, 16, 8, 4, 2, 1]), (99, 32, [32])]
)
def test_a_batch_size_is_halved_until_it_fits(holds: int, found: int, tried: list[int]) -> None:
    samples = load_data("digits")
    spec = f"python:small_teacher:teacher,holds={holds}"
    teacher = load_teacher(spec, samples, preprocess=None, device=CPU, precision="fp32")
    assert teacher.fitting_batch_size(torch.zeros(1, 1, 8, 8), 10, 32) == found
    assert teacher.module.seen == tried


def test_a_device_that_holds_not_even_one_input_is_said() -> None:
    teacher = load_teacher(
        "python:small_teacher:teacher,holds=0", load_data("digits"), preprocess=None, device=CPU, precision="fp32"
    )
    with pytest.raises(DeviceMemoryError, match="batches of 1"):
        teacher.fitting_batch_size(torch.zeros(1, 1, 8, 8), 10, 32)


def test_a_compiled_teacher_is_another_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the code generator needs a compiler of its own, which a test machine may lack
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend="eager"))
    config: dict[str, Any] = {"data": "digits", "teacher": "python:small_teacher:teacher"}
    plain = extract(ExtractConfig(out=tmp_path / "a.kd", **config)).manifest
    compiled = extract(ExtractConfig(out=tmp_path / "b.kd", runtime="compile", **config)).manifest
    assert (plain.precision, compiled.precision) == ("fp32", "fp32/compile")
    assert plain.store_id != compiled.store_id
    one, other = (open_store(tmp_path / name).read(np.arange(50))["logits"] for name in ("a.kd", "b.kd"))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_factorised_wants_the_plain_network(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Use --runtime torch"):
        ExtractConfig(data="digits", teacher="x", out=tmp_path, codec="factorised", runtime="compile")
