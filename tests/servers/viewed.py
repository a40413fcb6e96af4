"""Stores of augmented views that several test files share, and what a student is given of them."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, extract
from kdpipe.pipeline.data import Samples, load_data
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.training.training_data import TrainingData, lay_out
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores import open_store

CPU = torch.device("cpu")
DATA = "digits,split=train,max_per_class=12"  # 120 samples
CODE = """
import torch
class T(torch.nn.Module):
    preprocessing = "image,mean=0.5,std=0.25"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Linear(64, 10)
    def forward(self, x): return 5 * self.body(x.flatten(1))
def teacher(): return T()
"""
MIXED = "crop-flip,size=8,padding=2,mixup=0.4,cutmix=1"
SPECS = {"mixed": MIXED, "rrc": "rrc-flip,size=8", "library": "trivial-augment,size=8,padding=1"}


def make_stores(root: Path) -> dict[str, Path]:
    """One store of three views for every spec, and one without augmentation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(root)
        (root / "replayed_views.py").write_text(CODE)
        config: dict[str, Any] = {"data": DATA, "teacher": "python:replayed_views:teacher", "codec": "float32"}
        for name, spec in SPECS.items():
            extract(
                ExtractConfig(**config, out=root / f"{name}.kd", augment=spec, views=3, chunk_rows=16, batch_size=16)
            )
        extract(ExtractConfig(**config, out=root / "plain.kd"))
        sys.modules.pop("replayed_views")
    return {name: root / f"{name}.kd" for name in (*SPECS, "plain")}


def config(store: Path, out: Path, **changes: Any) -> DistillConfig:
    settings = {
        "student": "kdpipe:convnet_tiny", "loss": ("kd",), "epochs": 3, "batch_size": 32, "workers": 0, "device": "cpu",
        "optimiser": OptimiserConfig(lr=0.05),
    }  # fmt: skip
    return DistillConfig(**{**settings, "store": store, "out": out, **changes})


def data_of(store: Path, samples: Samples | None = None, objective: str = "kd", **changes: Any) -> TrainingData:
    opened = open_store(store)
    preprocessing = Preprocessing.from_dict(opened.manifest.preprocessing)
    settings = config(store, Path("unused"), **changes)
    objectives = [Objective.parse((objective,))]
    return lay_out(settings, opened, samples or load_data(DATA), preprocessing, objectives, CPU)


def teacher_of(inputs: torch.Tensor) -> torch.Tensor:
    module: dict[str, Any] = {}
    exec(CODE, module)
    with torch.no_grad():
        return module["teacher"]()(inputs)


def digests(data: TrainingData, epoch: int) -> dict[str, str]:
    ids = data.dataset.samples.sample_ids
    batches = data.epoch(epoch, 0, pin_memory=False)
    return {
        ids[int(position)].as_py(): input_digest(batch.inputs[i])
        for batch in batches for i, position in enumerate(batch.positions)
    }  # fmt: skip


def write_digests(store: Path, out: Path) -> None:
    """What one rank is given in epoch 2."""
    found = digests(data_of(store, batch_size=40), epoch=2)
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
