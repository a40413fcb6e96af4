"""Write the stores of this version that every later version must open; run once for each format version.

Usage: python tests/stores/old/write.py FOLDER
"""

import sys
from pathlib import Path

import torch
from kdpipe.pipeline import ExtractConfig, extract
from torch import nn

DATA = "digits,split=train,imbalance=50"


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


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parent))
    common = {"data": DATA, "teacher": "python:write:teacher", "batch_size": 64, "licence": "CC0-1.0"}
    extract(ExtractConfig(**common, out=folder / "float16.kd"))
    extract(ExtractConfig(**common, out=folder / "float32-cut.kd", codec="float32", chunk_rows=64, rank_depth=3))
