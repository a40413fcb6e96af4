"""A store in Hugging Face's Trainer: rows travel with the inputs, and the loss reads the teacher's logits from them.

Usage: python examples/hf_trainer.py STORE    (a store of the digits; needs transformers and accelerate)
"""

# its package is typed otherwise than it works
# pyright: reportCallIssue=false

import sys
import tempfile
from typing import Any

import kdpipe
import torch
from kdpipe.pipeline.losses import kd
from plain_torch import Digits
from torch.utils.data import DataLoader
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments


class Named(Digits):
    """The same data with the names that the model's ``forward`` takes; the join adds ``row``."""

    def __getitem__(self, position: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        image, label = super().__getitem__(position)
        return {"pixel_values": image, "labels": label}


class DistillationTrainer(Trainer):
    def __init__(self, store: kdpipe.Store, **options: Any) -> None:
        self.store, joined = store, store.join(Named())
        self.batches = joined.batch_sampler(64, seed=0)
        super().__init__(train_dataset=joined, **options)  # pyright: ignore[reportArgumentType]

    def get_train_dataloader(self) -> DataLoader:
        # once prepared, it tells the sampler which epoch it is
        return self.accelerator.prepare(DataLoader(self.train_dataset, batch_sampler=self.batches))  # pyright: ignore

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        rows = inputs.pop("row").cpu().numpy()
        output = model(**inputs)  # the cross-entropy with the labels is in output.loss
        teacher = torch.from_numpy(self.store.read(rows, arrays=("logits",))["logits"]).to(output.logits.device)
        return output.loss + kd(output.logits, teacher)


def main(path: str) -> None:
    torch.manual_seed(0)
    store = kdpipe.open_store(path)
    config = ResNetConfig(num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=10)
    training = {"num_train_epochs": 5, "learning_rate": 1e-2, "logging_strategy": "epoch"}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    arguments = TrainingArguments(tempfile.gettempdir(), remove_unused_columns=False, **training, **quiet)
    trainer = DistillationTrainer(store, model=ResNetForImageClassification(config), args=arguments)
    trainer.train()
    for entry in trainer.state.log_history[:-1]:  # the last one sums up the run
        print(f"epoch {entry['epoch']:.0f}: mean loss {float(entry['loss']):.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
