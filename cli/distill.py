"""``kdpipe distill``."""

from pathlib import Path
from typing import Any

import click

from .options import ProgressBar, StorePath, auto_int, comma_ints, config_option, json_option

_OPTIMISER = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "milestones", "gamma", "warmup_epochs",
              "clip_grad")  # fmt: skip


@click.command()
@config_option
@click.option("--store", type=StorePath(), help="The store, or its address; not needed with --loss ce alone.")
@click.option("--student", required=True, metavar="SPEC", help="e.g. kdpipe:resnet8x4 or torchvision:resnet18.")
@click.option("--loss", multiple=True, default=["ce"], metavar="SPEC", show_default=True,
              help="NAME,key=value (docs/losses.md), or python:MODULE:CLASS; several are summed.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder of the run.")
@click.option("--data", metavar="SPEC", help="The training data; by default what the store was made from.")
@click.option("--val", metavar="SPEC", help="The data to validate on.")
@click.option("--ce-weight", type=float, help="Weight of cross-entropy.  [default: 1]")
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(1))
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@click.option("--optimizer", default="sgd", type=click.Choice(["sgd", "adamw"]), show_default=True)
@click.option("--lr", default=0.1, show_default=True, help="Peak learning rate.")
@click.option("--momentum", default=0.9, show_default=True)
@click.option("--weight-decay", default=5e-4, show_default=True)
@click.option("--schedule", default="cosine", type=click.Choice(["cosine", "step", "constant"]), show_default=True)
@click.option("--milestones", callback=comma_ints, help="Epochs of the steps.  [default: at 60, 80 and 90 %]")
@click.option("--gamma", default=0.1, show_default=True, help="Factor of a step.")
@click.option("--warmup-epochs", default=0.0, show_default=True)
@click.option("--clip-grad", type=float, help="Largest norm of the gradient.")
@click.option("--ema", type=float, help="Decay of the weights' moving average, which is then saved.")
@click.option("--seed", default=0, show_default=True)
@click.option("--order", default="auto", type=click.Choice(["auto", "random", "chunks"]), show_default=True)
@click.option("--placement", default="auto", type=click.Choice(["auto", "gpu", "ram", "mmap"]), show_default=True,
              help="Where the teacher's arrays are kept; auto: on the GPU if they fit, else mapped.")  # fmt: skip
@click.option("--preprocess", metavar="SPEC", help="By default the store's, which the teacher saw.")
@click.option("--groups", default="thirds", metavar="RULE", show_default=True, help="Class groups without a store.")
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), show_default=True)
@click.option("--workers", default="auto", callback=auto_int, show_default=True, help="Reading processes.")
@click.option("--val-every", default=1, show_default=True, type=click.IntRange(1), help="Epochs between validations.")
@click.option("--checkpoint-seconds", default=600.0, show_default=True, help="Longest time between checkpoints.")
@click.option("--resume", is_flag=True, help="Insist on going on: refuse to begin a run that has no checkpoint.")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events.")
@click.option("--verify", is_flag=True, help="Compare every chunk with its checksum before its first use.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where chunks of a remote store are kept.")
@click.option("--cache-size", default="20GB", show_default=True, help="How much may be kept there.")
@click.option("--allow-mismatch", metavar="REASON", help="Train although data and store differ; the reason is kept.")
@json_option
def distill(*, as_json: bool, **settings: Any) -> None:
    """Train a student from a store; the teacher is never loaded.

    \b
    kdpipe distill --store photos.kd --student torchvision:resnet18 --loss ltkd --out runs/ltkd
    kdpipe distill --data digits,split=train --student kdpipe:resnet8x4 --loss ce --out runs/teacher

    Run again after an interruption, the same command goes on from the last checkpoint.
    """
    from ..pipeline import DistillConfig, OptimiserConfig
    from ..pipeline import distill as run
    from .show import epoch_line, show_summary

    optimiser = OptimiserConfig(**{name: settings.pop(name) for name in _OPTIMISER})
    config = DistillConfig(**settings, optimiser=optimiser)
    with ProgressBar("epochs") as update:

        def on_epoch(record: dict[str, Any]) -> None:
            update(done=record["epoch"] + 1, total=config.epochs, speed=f"{record['images_per_second']:,.0f} images/s")
            click.echo(epoch_line(record, config.epochs), err=True)

        result = run(config, on_epoch)
    if not result.trained:
        click.echo(f"{config.out} is finished already; nothing was changed.", err=True)
    show_summary(config.out, result.summary, as_json=as_json)
