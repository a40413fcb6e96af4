"""How well streaming by chunks shuffles, against a true shuffle; and whether a student notices."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.stores import BatchSampler
from kdpipe.stores.streaming import class_mixing

NUM, CHUNK_ROWS, BATCH_SIZE, CLASSES = 200_000, 4096, 256, 1000
DATA = "fashion-mnist:,max_per_class=600,imbalance=1"


def run(scale: float = 1.0) -> list[dict[str, Any]]:
    """The quality of the order, then the students' accuracies."""
    sorted_labels = np.arange(NUM) * CLASSES // NUM
    return [_order("random", sorted_labels), _order("chunks", sorted_labels), _students(scale)]


def _order(order: str, labels: np.ndarray) -> dict[str, Any]:
    """Averages over ten epochs."""
    sampler = BatchSampler(range(NUM), CHUNK_ROWS, BATCH_SIZE, order=order, drop_last=True)
    adjacent, mixing, runs = [], [], []
    for epoch in range(10):
        sampler.set_epoch(epoch)
        batch_of = np.full(NUM, -1)
        for number, rows in enumerate(sampler.arrays()):
            batch_of[rows] = number
            runs.append(_longest_run(labels[rows]))
        adjacent.append(float((batch_of[1:] == batch_of[:-1]).mean()))
        mixing.append(class_mixing(sampler, labels))
    expected = (BATCH_SIZE - 1) / (NUM - 1)
    return {
        "order": order,
        "rows": NUM,
        "neighbours in one batch / expected of a shuffle": statistics.mean(adjacent) / expected,
        "sorted by label: classes a batch / expected of a shuffle": statistics.mean(mixing),
        "sorted by label: longest run of one label, mean": statistics.mean(runs),
    }


def _longest_run(labels: np.ndarray) -> int:
    ends = np.flatnonzero(np.diff(labels, append=-1))
    return int(np.diff(ends, prepend=-1).max())


def _students(scale: float) -> dict[str, Any]:
    """Students of one seed differ in the order alone; chunks are small, so that there are several windows."""
    seeds = range(max(3, int(8 * scale)))
    test = "fashion-mnist:,split=test"
    optimiser = OptimiserConfig(lr=0.05)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        teacher = DistillConfig(student="kdpipe:resnet8x4", data=DATA, out=root / "t", epochs=4, optimiser=optimiser)
        distill(teacher)
        store = root / "a.kd"
        weights = f"kdpipe:resnet8x4,weights={root / 't' / 'student.safetensors'}"
        extract(ExtractConfig(data=DATA, teacher=weights, out=store, chunk_rows=64))
        accuracies: dict[str, list[float]] = {"random": [], "chunks": []}
        for seed in seeds:
            for order, found in accuracies.items():
                result = distill(
                    DistillConfig(
                        store=store, student="kdpipe:convnet_tiny", loss=("kd",), val=test, val_every=99, epochs=6,
                        optimiser=optimiser, seed=seed, order=order, out=root / f"{order}-{seed}",  # pyright: ignore
                    )
                )  # fmt: skip
                found.append(100 * result.summary["val"]["overall"])
    differences = [one - other for one, other in zip(accuracies["chunks"], accuracies["random"], strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return {
        "data": "Fashion-MNIST, 6,000 images in 94 chunks; tested on 10,000",
        "seeds": len(seeds),
        **{f"accuracy, {order}": statistics.mean(values) for order, values in accuracies.items()},
        "chunks - random, paired": statistics.mean(differences),
        "standard error": error,
    }


if __name__ == "__main__":
    for record in run(0.4):
        print(record)
