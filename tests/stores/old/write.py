"""Write the stores of this version that every later version must open; run once for each kind of store.

Usage: python tests/stores/old/write.py FOLDER

Those that are in FOLDER already stay as they are.
"""

import sys
from pathlib import Path

import torch
from kdpipe.pipeline import ExtractConfig, extract
from torch import nn

LARGE, SMALL = "digits,split=train,imbalance=50", "digits,split=train,max_per_class=2"
AUGMENT = "crop-flip,size=8,padding=2"
STORES = {
    "float16": {"data": LARGE},
    "float32-cut": {"data": LARGE, "codec": "float32", "chunk_rows": 64, "rank_depth": 3},
    "float16-zstd": {"codec": "float16+zstd"},
    "int8": {"codec": "int8"},
    "int8-zstd": {"codec": "int8+zstd"},
    "topk": {"codec": "topk:3,temperatures=1,4"},
    "topk-zstd": {"codec": "topk:3,temperatures=1,4+zstd"},
    "factorised": {"codec": "factorised", "teacher": "python:write:narrow_teacher"},
    "views": {"views": 2, "augment": AUGMENT, "chunk_rows": 16},
    "views-mixed": {"views": 2, "augment": f"{AUGMENT},mixup=0.8,cutmix=1"},
    "parquet": {"format": "parquet", "chunk_rows": 16},
    "parquet-lists": {"format": "parquet-lists", "codec": "int8"},
    "parquet-views": {"format": "parquet", "views": 2, "augment": AUGMENT},
}


class Teacher(nn.Module):
    """A linear teacher with fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.fc(inputs.flatten(1))


def teacher() -> nn.Module:
    return Teacher()


def narrow_teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parent))
    common = {"data": SMALL, "teacher": "python:write:teacher", "batch_size": 64, "workers": 0, "licence": "CC0-1.0"}
    for name, settings in STORES.items():
        out = folder / f"{name}.kd"
        if not out.exists():
            extract(ExtractConfig(**{**common, **settings}, out=out))
