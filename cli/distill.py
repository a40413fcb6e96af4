"""``kdpipe distill``."""

import logging
from typing import Any

import click
from click.core import ParameterSource

from .options import LocalPath, ProgressBar, config_option, json_option, only_one, recipe_option
from .training_options import OPTIMISER, training_options

logger = logging.getLogger(__name__)


@click.command()
@config_option
@recipe_option
@click.option("--student", multiple=True, required=True, metavar="SPEC", callback=only_one,
              help="e.g. kdpipe:resnet8x4 or torchvision:resnet18.")  # fmt: skip
@click.option("--loss", multiple=True, default=["ce"], metavar="SPEC", show_default=True,
              help="NAME,key=value (docs/losses.md), or python:MODULE:CLASS; several are summed.")  # fmt: skip
@click.option("--out", required=True, type=LocalPath(), help="The folder of the run.")
@training_options
@click.option("--seed", default=0, show_default=True, help="Of the first weights, dropout and the order of the data.")
@click.option("--resume", is_flag=True, help="Insist on going on: refuse to begin a run that has no checkpoint.")
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
    from ..pipeline.ranks import Ranks
    from .show import epoch_line, show_summary

    optimiser = OptimiserConfig(**{name: settings.pop(name) for name in OPTIMISER})
    config = DistillConfig(**settings, optimiser=optimiser)
    no_loss_given = click.get_current_context().get_parameter_source("loss") is ParameterSource.DEFAULT
    if config.store is not None and no_loss_given:
        logger.warning(
            "Without --loss the student learns from labels alone: the store's logits are not read. Give --loss kd, or "
            "another one (docs/losses.md)."
        )
    with ProgressBar("epochs") as update:

        def on_epoch(record: dict[str, Any]) -> None:
            update(done=record["epoch"] + 1, total=config.epochs, speed=f"{record['images_per_second']:,.0f} images/s")
            click.echo(epoch_line(record, config.epochs), err=True)

        result = run(config, on_epoch)
    if not Ranks.from_environment().first:
        return
    if not result.trained:
        click.echo(f"{config.out} is finished already; nothing was changed.", err=True)
    show_summary(config.out, result.summary, as_json=as_json)
