"""Train one student from a float32 store and one with the teacher live, on the same batches; compare the weights.

Usage: python benchmarks/live_teacher.py [EPOCHS]

Prints the largest difference of any weight: with the teacher run on the training batches (another batch split than
at extraction, so its own round-off differs), and with the teacher run on the same batch split as at extraction.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.inputs import Batch, InputDataset
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.models import create_model
from kdpipe.pipeline.teachers import Teacher, load_teacher
from kdpipe.pipeline.training.cohort import Cohort
from kdpipe.pipeline.training.failures import Failures
from kdpipe.pipeline.training.targets import MappedTargets, Targets
from kdpipe.pipeline.training.trainer import Trainer
from kdpipe.pipeline.training.training_data import TrainingData
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import open_store
from torch import Tensor

DATA = "digits,split=train,imbalance=10"
LOSSES = ("kd", "ltkd")


def train(store_path: Path, targets: Targets, epochs: int) -> dict[str, Tensor]:
    """The weights of a student trained with these targets."""
    samples, store, objective = load_data(DATA), open_store(store_path), Objective.parse(LOSSES)
    joined = store.join(InputDataset(samples, Preprocessing()))
    data = TrainingData(
        dataset=InputDataset(samples, Preprocessing()),
        sampler=joined.batch_sampler(32, seed=0, drop_last=True),
        positions=joined.positions,
        targets=targets,
        class_groups=store.class_groups,
    )
    torch.manual_seed(0)
    student = create_model("convnet_tiny", 10, 1)
    trainer = Trainer(
        student, data, objective, OptimiserConfig(lr=0.05), epochs=epochs, device=torch.device("cpu"), precision="fp32"
    )
    cohort = Cohort({0: trainer}, Failures())
    while cohort.active:
        cohort.run_epoch()
    return student.state_dict()


def from_store(store_path: Path) -> Targets:
    """The teacher's logits from the store."""
    samples, store = load_data(DATA), open_store(store_path)
    joined = store.join(InputDataset(samples, Preprocessing()))
    return MappedTargets(store, joined, ["logits"], len(samples), device=torch.device("cpu"))


def live(teacher: Teacher, split: int | None) -> Targets:
    """The teacher run on each training batch, whole or in parts of ``split`` samples."""

    def run(batch: Batch) -> dict[str, Tensor]:
        parts = batch.inputs.split(split or len(batch.inputs))
        return {"logits": torch.cat([teacher.logits(part, 10).clone() for part in parts])}

    return run


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest absolute difference of any weight."""
    return max(float(np.abs(one[name].numpy() - other[name].numpy()).max()) for name in one)


def main(epochs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        distill(
            DistillConfig(
                student="kdpipe:resnet8x4",
                data=DATA,
                out=root / "teacher",
                epochs=5,
                optimiser=OptimiserConfig(lr=0.05),
            )
        )
        weights = f"kdpipe:resnet8x4,weights={root / 'teacher' / 'student.safetensors'}"
        store_path = root / "digits.kd"
        extract(ExtractConfig(data=DATA, teacher=weights, out=store_path, codec="float32", batch_size=1))
        teacher = load_teacher(weights, load_data(DATA), preprocess=None, device=torch.device("cpu"), precision="fp32")
        stored = train(store_path, from_store(store_path), epochs)
        largest = max(float(value.abs().max()) for value in stored.values() if value.is_floating_point())
        print(f"{epochs} epochs, losses {' + '.join(LOSSES)}, largest weight {largest:.3f}")
        on_batches = largest_difference(stored, train(store_path, live(teacher, None), epochs))
        print(f"teacher live on the training batches: largest difference {on_batches:.3e}")
        same_split = largest_difference(stored, train(store_path, live(teacher, 1), epochs))
        print(f"teacher live on the batch split of the extraction: largest difference {same_split:.3e}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
