"""The deterministic part of `make faults`: an extraction killed at every step of writing every file."""

import os
import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"


def test_an_extraction_killed_at_any_step_of_any_file_is_resumed_to_the_same_store() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, FAULTS, "--steps"], check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["held"] * 4
    assert all(int(line.split()[1]) >= 15 for line in lines), "as many kills of each kind as there are files"
