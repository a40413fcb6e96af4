"""Sweeps: many students from one store, each trial a run of its own, those that share their data trained together."""

from .config import SweepConfig
from .leaderboard import Standing
from .run import SweepResult, sweep
from .table import Row

__all__ = ["Row", "Standing", "SweepConfig", "SweepResult", "sweep"]
