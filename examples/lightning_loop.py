"""A store in Lightning's training loop: the module asks the store where others would ask a teacher.

Usage: python examples/lightning_loop.py STORE    (a store of the digits; needs lightning)
"""

# its package is typed otherwise than it works
# pyright: reportOptionalMemberAccess=false

import sys
from typing import Any

import kdpipe
import lightning
import torch
from kdpipe.pipeline.losses import grkd
from plain_torch import Digits
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Student(lightning.LightningModule):
    def __init__(self, store: kdpipe.Store) -> None:
        super().__init__()
        self.store = store
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.batch_sampler.set_epoch(self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, labels, rows = batch
        ranks = torch.from_numpy(self.store.read(rows.cpu().numpy(), arrays=("ranks",))["ranks"]).to(self.device)
        logits = self.network(inputs)
        loss = nn.functional.cross_entropy(logits, labels) + grkd(logits, ranks=ranks)
        self.log("mean loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        print(f"epoch {self.current_epoch + 1}: mean loss {self.trainer.callback_metrics['mean loss']:.3f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=1e-2)


def main(path: str) -> None:
    lightning.seed_everything(0, verbose=False)
    store = kdpipe.open_store(path)
    joined = store.join(Digits())
    loader: DataLoader = DataLoader(joined, batch_sampler=joined.batch_sampler(64, seed=0))  # pyright: ignore[reportArgumentType]
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(silent, False)
    lightning.Trainer(max_epochs=5, accelerator="auto", devices=1, **quiet).fit(Student(store), loader)


if __name__ == "__main__":
    main(sys.argv[1])
