"""Kills of a training run: the weights must be those of a run never killed, bit for bit."""

import random
from collections.abc import Callable
from pathlib import Path

from children import Child, Row
from extraction import DATA, extraction
from kdpipe.pipeline import DistillConfig, OptimiserConfig, distill


def killed_runs(folder: Path, kills: int) -> Row:
    """Kill one run so many times, at random instants, and let it end."""
    generator = random.Random(1)
    store = folder / "train.kd"
    Child(extraction(store)).wait()
    Child(_training(store, folder / "whole")).wait()
    expected = (folder / "whole" / "student.safetensors").read_bytes()
    struck, runs, right = 0, 0, True
    while struck < kills:
        out = folder / f"run-{runs}"
        while not (out / "summary.json").exists():
            child = Child(_training(store, out))
            if struck < kills:
                struck += child.kill_after(generator.uniform(0.1, 1.5))
            else:
                child.wait()
        right &= (out / "student.safetensors").read_bytes() == expected
        runs += 1
    outcome = f"{runs} runs, {'all' if right else 'NOT all'} with the weights of a run never killed, bit for bit"
    return Row("SIGKILL of a training run at a random instant (CPU)", struck, outcome, right)


def _training(store: Path, out: Path) -> Callable[[], object]:
    config = DistillConfig(
        student="kdpipe:convnet_tiny",
        store=store,
        data=DATA,
        loss=("kd", "grkd,weight=0.1"),
        out=out,
        epochs=8,
        batch_size=64,
        ema=0.9,
        optimiser=OptimiserConfig(lr=0.05),
        checkpoint_seconds=0.0,
    )
    return lambda: distill(config)
