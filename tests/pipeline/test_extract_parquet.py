"""Extraction into a Parquet payload: interrupted or not, replayed, and students trained from it equal those of Zarr."""

from pathlib import Path

import numpy as np
import pytest
from kdpipe.pipeline import DistillConfig, ExtractConfig, distill, extract
from kdpipe.pipeline.recheck import recheck
from kdpipe.pipeline.training.optimisation import OptimiserConfig
from kdpipe.stores import UsageError, open_store
from kdpipe.stores.checks.verify import verify
from safetensors.torch import load_file

DATA = "digits,split=train,max_per_class=12"
TEACHER = "python:flat_teacher:teacher"
MODULE = """
import torch
from torch import nn
def teacher(num_classes):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture(autouse=True)
def teacher_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flat_teacher.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def config(out: str, spelling: str, **settings: object) -> ExtractConfig:
    base = {"data": DATA, "teacher": TEACHER, "chunk_rows": 50, "batch_size": 32, "device": "cpu"}
    return ExtractConfig(**{**base, "out": Path(out), "format": spelling, **settings})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("spelling", ["parquet", "parquet-lists"])
def test_interrupted_or_not_the_bytes_are_the_same_and_replay_agrees(spelling: str) -> None:
    extract(config("whole.kd", spelling))

    def interrupt(progress) -> None:
        if progress.computed > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(config("a.kd", spelling), interrupt)
    manifest = extract(config("a.kd", spelling)).manifest
    assert manifest.payload_format == spelling
    assert verify("a.kd", deep=True).findings == ()
    for path in sorted(Path("whole.kd").rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            assert path.read_bytes() == (Path("a.kd") / path.relative_to("whole.kd")).read_bytes(), path
    assert recheck("a.kd", teacher=TEACHER, data=DATA, rows=20).findings == ()


@pytest.mark.parametrize("losses", [("ltkd", "grkd"), ("kd",)])
def test_students_are_those_of_the_zarr_store(losses: tuple[str, ...]) -> None:
    weights, views = [], {"augment": "crop-flip,size=8,padding=1", "views": 2}
    for spelling in ("zarr", "parquet", "parquet-lists"):
        extract(config(f"{spelling}.kd", spelling, **views))
        run = Path(f"run-{spelling}")
        distill(
            DistillConfig(
                store=Path(f"{spelling}.kd"), student="kdpipe:convnet_tiny", data=DATA, loss=losses, out=run, epochs=2,
                batch_size=16, device="cpu", optimiser=OptimiserConfig(lr=0.05),
            )
        )  # fmt: skip
        weights.append(load_file(next(run.glob("*.safetensors"))))
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        for name, tensor in other.items():
            assert tensor.equal(weights[0][name]), name
    stores = [open_store(f"{spelling}.kd") for spelling in ("zarr", "parquet")]
    rows = np.arange(len(stores[0]))
    for name in ("logits", "ranks", "boxes", "flips"):
        found = [store.read(rows, arrays=(name,), view=1)[name].tobytes() for store in stores]
        assert found[0] == found[1]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="parquet"):
        config("a.kd", "parket")
