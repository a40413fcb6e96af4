"""A store in your own training loop: plain torch, no kdpipe trainer.

Usage: python examples/plain_torch.py STORE

STORE is a store of the digits, for example the one that `kdpipe demo --out demo` leaves in demo/digits.kd.
"""

import sys

import kdpipe
import torch
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.inputs import InputDataset
from kdpipe.pipeline.losses import grkd, ltkd
from kdpipe.pipeline.views import Preprocessing
from torch.utils.data import DataLoader


class Digits:
    """Any map-style data set will do: it gives (input, label) by position and names its sample ids."""

    def __init__(self) -> None:
        self._inputs = InputDataset(load_data("digits,split=train"), Preprocessing())
        self.sample_ids = self._inputs.sample_ids

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self._inputs[position]


def main(path: str) -> None:
    torch.manual_seed(0)
    store = kdpipe.open_store(path)
    joined = store.join(Digits())  # by sample id: order and length of the data set do not matter
    sampler = joined.batch_sampler(64, seed=0)
    loader: DataLoader = DataLoader(joined, batch_sampler=sampler)  # pyright: ignore[reportArgumentType]

    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    groups = torch.from_numpy(store.class_groups)
    for epoch in range(5):
        total = 0.0
        sampler.set_epoch(epoch)
        for images, labels, rows in loader:
            teacher = store.read(rows.numpy(), arrays=("logits", "ranks"))
            logits = student(images)
            loss = (
                torch.nn.functional.cross_entropy(logits, labels)
                + ltkd(logits, torch.from_numpy(teacher["logits"]), groups)
                + 10 * grkd(logits, ranks=torch.from_numpy(teacher["ranks"]))
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: mean loss {total / len(sampler):.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
