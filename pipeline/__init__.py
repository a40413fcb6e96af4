"""The two stages, extraction and distillation, and what they are made of."""

from .config import DistillConfig, ExtractConfig
from .distill import DistillResult, distill
from .extract import ExtractResult, Progress, extract
from .sweep import SweepConfig, SweepResult, sweep
from .training.optimisation import OptimiserConfig

__all__ = [
    "DistillConfig",
    "DistillResult",
    "ExtractConfig",
    "ExtractResult",
    "OptimiserConfig",
    "Progress",
    "SweepConfig",
    "SweepResult",
    "distill",
    "extract",
    "sweep",
]
