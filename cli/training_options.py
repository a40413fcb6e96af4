"""The options of training a student that ``distill`` and ``sweep`` share."""

from collections.abc import Callable
from typing import Any

import click

from .options import LocalPath, StorePath, auto_int, comma_ints

OPTIMISER = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "milestones", "gamma", "warmup_epochs",
             "clip_grad")  # fmt: skip

_OPTIONS = (
    click.option("--store", type=StorePath(), help="The store, or its address; not needed with --loss ce alone."),
    click.option("--data", metavar="SPEC", help="The training data; by default what the store was made from."),
    click.option("--val", metavar="SPEC", help="The data to validate on."),
    click.option("--ce-weight", type=float, help="Weight of cross-entropy.  [default: 1]"),
    click.option("--epochs", default=30, show_default=True, type=click.IntRange(1)),
    click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1)),
    click.option("--optimizer", default="sgd", type=click.Choice(["sgd", "adamw"]), show_default=True),
    click.option("--lr", default=0.1, show_default=True, help="Peak learning rate."),
    click.option("--momentum", default=0.9, show_default=True),
    click.option("--weight-decay", default=5e-4, show_default=True),
    click.option("--schedule", default="cosine", type=click.Choice(["cosine", "step", "constant"]), show_default=True),
    click.option("--milestones", callback=comma_ints, help="Epochs of the steps.  [default: at 60, 80 and 90 %]"),
    click.option("--gamma", default=0.1, show_default=True, help="Factor of a step."),
    click.option("--warmup-epochs", default=0.0, show_default=True),
    click.option("--clip-grad", type=float, help="Largest norm of the gradient."),
    click.option("--ema", type=float, help="Decay of the weights' moving average, which is then saved."),
    click.option("--data-seed", type=int, help="Seed of the order of the data.  [default: the seed]"),
    click.option("--order", default="auto", type=click.Choice(["auto", "random", "chunks"]), show_default=True),
    click.option("--placement", default="auto", type=click.Choice(["auto", "gpu", "ram", "mmap"]), show_default=True,
                 help="Where the teacher's arrays are kept; auto: on the GPU if they fit, else mapped."),
    click.option("--views", type=click.IntRange(1), help="Use so many of the store's augmented views.  [default: all]"),
    click.option("--size", type=click.IntRange(1),
                 help="Side of augmented inputs, with the store's crops.  [default: the store's]"),
    click.option("--mixup", type=float, help="Alpha of mixing views that the teacher has not seen mixed, for mixkd."),
    click.option("--augment", metavar="SPEC", help="Without a store: augment inputs, as --augment of extract does."),
    click.option("--preprocess", metavar="SPEC", help="By default the store's, which the teacher saw."),
    click.option("--groups", metavar="RULE", help="Class groups without a store.  [default: thirds]"),
    click.option("--device", default="auto", show_default=True),
    click.option("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), show_default=True),
    click.option("--workers", default="auto", callback=auto_int, show_default=True, help="Reading processes."),
    click.option("--val-every", default=1, show_default=True, type=click.IntRange(1),
                 help="Epochs between validations."),
    click.option("--checkpoint-seconds", default=600.0, show_default=True, help="Longest time between checkpoints."),
    click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events."),
    click.option("--verify", is_flag=True, help="Compare every chunk with its checksum before its first use."),
    click.option("--cache", type=LocalPath(), help="Where chunks of a remote store are kept."),
    click.option("--cache-size", default="20GB", show_default=True, help="How much may be kept there."),
    click.option("--allow-mismatch", metavar="REASON",
                 help="Train although data and store differ; the reason is kept."),
)  # fmt: skip


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
