"""A store in timm's training loop: the model, optimiser, schedule and averages are timm's, the teacher is a store.

Usage: python examples/timm_loop.py STORE    (a store of the digits; needs timm)
"""

# its package is typed otherwise than it works
# pyright: reportPrivateImportUsage=false, reportOptionalMemberAccess=false

import sys

import kdpipe
import torch
from kdpipe.pipeline.losses import ltkd
from plain_torch import Digits
from timm import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3
from torch.utils.data import DataLoader


def main(path: str, num_epochs: int = 5) -> None:
    torch.manual_seed(0)
    store = kdpipe.open_store(path)
    joined = store.join(Digits())
    sampler = joined.batch_sampler(64, seed=0)
    loader: DataLoader = DataLoader(joined, batch_sampler=sampler)  # pyright: ignore[reportArgumentType]
    groups = torch.from_numpy(store.class_groups)

    model = create_model("test_resnet", num_classes=store.manifest.num_classes, in_chans=1)
    average = ModelEmaV3(model, decay=0.99)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=num_epochs, warmup_epochs=0)
    for epoch in range(num_epochs):
        sampler.set_epoch(epoch)
        mean_loss = AverageMeter()
        for inputs, labels, rows in loader:
            teacher = torch.from_numpy(store.read(rows.numpy(), arrays=("logits",))["logits"])
            output = model(inputs)
            loss = torch.nn.functional.cross_entropy(output, labels) + ltkd(output, teacher, groups)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model)
            mean_loss.update(loss.item(), len(inputs))
        scheduler.step(epoch + 1)
        print(f"epoch {epoch + 1}: mean loss {mean_loss.avg:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
