"""``kdpipe demo``."""

from pathlib import Path

import click

from .options import json_option


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Keep the store and the runs in this folder.")
@json_option
def demo(*, out: Path | None, as_json: bool) -> None:
    """The whole story on embedded data, in about a minute.

    Trains a teacher on long-tailed digits, writes its store, and trains students with CE, KD, GRKD and LTKD.

    \b
    kdpipe demo --out demo
    """
    import tempfile
    from dataclasses import asdict

    from ..pipeline.demo import SEEDS
    from ..pipeline.demo import demo as run
    from .show import show_json

    def say(command: str) -> None:
        click.echo(f"$ {command}", err=True)

    with tempfile.TemporaryDirectory(prefix="kdpipe-demo-") as temporary:
        rows = run(out or Path(temporary), say)
    if as_json:
        show_json([asdict(row) for row in rows])
        return
    click.echo(f"\nTest accuracy in percent (mean +- standard deviation of {len(SEEDS)} seeds; the teacher is one run)")
    click.echo(f"{'':<18}{'overall':>14}{'head':>14}{'medium':>14}{'tail':>14}")
    for row in rows:
        cells = (f"{row.mean[group]:.1f} +- {row.spread[group]:.1f}" for group in row.mean)
        click.echo(f"{row.name:<18}" + "".join(f"{cell:>14}" for cell in cells))
    if out is not None:
        click.echo(f"\nLook at the store: kdpipe store inspect {out / 'digits.kd'}")
