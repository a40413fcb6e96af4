"""A Ray of this machine's own, whose processes find the modules that the tests write."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def ray_here(folder: Path) -> Iterator[None]:
    """Two cores, and the modules of a folder; skips the test where Ray is not installed."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init("local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
        yield
        ray.shutdown()
