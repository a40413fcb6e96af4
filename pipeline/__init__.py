"""The two stages, extraction and distillation, and what they are made of."""

from .distill import DistillConfig, DistillResult, distill
from .extract import ExtractConfig, ExtractResult, Progress, extract
from .optimisation import OptimiserConfig

__all__ = [
    "DistillConfig",
    "DistillResult",
    "ExtractConfig",
    "ExtractResult",
    "OptimiserConfig",
    "Progress",
    "distill",
    "extract",
]
