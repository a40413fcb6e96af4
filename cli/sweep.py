"""``kdpipe sweep``."""

from typing import Any

import click

from ..stores.errors import UsageError
from .options import LocalPath, auto_int, comma_ints, config_option, json_option, recipe_option
from .training_options import OPTIMISER, training_options


@click.command()
@config_option
@recipe_option
@click.option("--student", "students", multiple=True, required=True, metavar="SPEC", help="Repeat it to compare.")
@click.option("--loss", "losses", multiple=True, default=["ce"], metavar="SPEC", show_default=True,
              help="Repeat it to compare; 'kd + grkd,weight=10' is the sum of two.")  # fmt: skip
@click.option("--out", required=True, type=LocalPath(), help="The folder of the sweep.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=A,B",
              help="Values of an option, or of loss.OPTION, to try; with ; where values have commas.")  # fmt: skip
@click.option("--seeds", default="0", show_default=True, callback=comma_ints, help="Train every setting with each.")
@click.option("--search", default="grid", type=click.Choice(["grid", "tpe"]), show_default=True,
              help="Try everything, or what Optuna's TPE suggests (extra sweep).")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), help="How many settings TPE tries.")
@click.option("--prune", type=click.Choice(["halving"]), help="Stop the worse half of the settings at some epochs.")
@click.option("--metric", default="balanced", type=click.Choice(["overall", "balanced", "head", "medium", "tail"]),
              show_default=True, help="By which settings are ranked.")  # fmt: skip
@click.option("--cohort", default="auto", callback=auto_int, show_default=True,
              help="Students trained side by side on the same batches, at most; auto: what memory allows.")  # fmt: skip
@click.option("--engine", default="local", type=click.Choice(["local", "ray"]), show_default=True,
              help="This process, or a Ray cluster (RAY_ADDRESS) on which several cohorts train at once.")  # fmt: skip
@click.option("--cpus", type=click.IntRange(1),
              help="With Ray: cores of a cohort.  [default: threads of this process; a GPU's share]")  # fmt: skip
@training_options
@json_option
def sweep(*, as_json: bool, **settings: Any) -> None:
    """Train many students from one store, and rank them.

    \b
    kdpipe sweep --store photos.kd --student kdpipe:resnet8x4 --loss kd --loss ltkd --set lr=0.1,0.05 \\
                 --set loss.temperature=2,4 --seeds 0,1,2 --val folder:photos/val --out sweeps/first

    Students who see the same batches are trained side by side, and the data are read once for all of them: give
    --data-seed so that seeds do, too. Run again after an interruption, the same command goes on.
    """
    from ..pipeline import DistillConfig, OptimiserConfig
    from ..pipeline.sweep import Row, SweepConfig
    from ..pipeline.sweep import sweep as run
    from ..pipeline.sweep.space import parse_settings
    from .show_sweep import row_line, show_sweep

    own = {name: settings.pop(name) for name in ("students", "losses", "seeds", "search", "trials", "prune", "metric",
                                                  "cohort", "engine", "cpus")}  # fmt: skip
    if not own["seeds"]:
        raise UsageError("--seeds names none: the grid is empty. Write numbers between commas.")
    varied = parse_settings(settings.pop("settings"))
    optimiser = OptimiserConfig(**{name: settings.pop(name) for name in OPTIMISER})
    base = DistillConfig(student=own["students"][0], **settings, optimiser=optimiser)
    config = SweepConfig(base=base, settings=varied, **own)

    def on_row(row: Row) -> None:
        click.echo(row_line(row, config.metric), err=True)

    result = run(config, on_row)
    show_sweep(config, result, as_json=as_json)
