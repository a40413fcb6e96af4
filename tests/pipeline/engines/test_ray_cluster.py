"""The connection to a cluster leaves the process as it was."""

import subprocess
import sys

import pytest

SIGNALLED = """
import os
import signal
import sys
from kdpipe.pipeline.engines.ray_cluster import cluster


def end(number, frame):
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, end)
try:
    with cluster():
        os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    import ray

    sys.exit(130 if not ray.is_initialized() else 1)
"""


def test_sigterm_still_does_what_it_did() -> None:
    """Preemption sends it: whoever asked to hear of it does, and Ray is shut down in good order."""
    pytest.importorskip("ray")
    done = subprocess.run([sys.executable, "-c", SIGNALLED], check=False, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
