"""``kdpipe store convert``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import NewStorePath, ProgressBar, StorePath, json_option

if TYPE_CHECKING:
    from ..stores.reshape.convert import Conversion


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@click.option("--out", required=True, type=NewStorePath(), metavar="STORE", help="The new store.")
@click.option("--format", "payload_format", type=click.Choice(["zarr", "parquet", "parquet-lists"]),
              help="Of the new payload.  [default: the store's]")  # fmt: skip
@click.option("--codec", metavar="SPEC", help="How the new logits are stored.  [default: the store's]")
@click.option("--chunk-rows", type=click.IntRange(1), help="Rows of a chunk.")
@json_option
def convert(*, path: Path | str, out: Path, as_json: bool, **settings: Any) -> None:
    """Write a store in another format or codec, and say what that changed.

    Both stores are read and compared: byte for byte where nothing may change, else the error is measured. Run again,
    the same command goes on. What a codec left out is never made up: a top-k store has no way back.

    \b
    kdpipe store convert photos.kd --format parquet-lists --out photos-tables.kd
    kdpipe store convert photos.kd --codec int8+zstd --out photos-small.kd
    """
    from ..stores.reshape.convert import convert as run
    from .show import show_json, show_manifest

    with ProgressBar("chunks") as update:
        conversion = run(path, out, on_progress=lambda done, total: update(done=done, total=total), **settings)
    if as_json:
        show_json(conversion)
        return
    show_manifest(out, conversion.manifest, as_json=False)
    _show(conversion)


def _show(conversion: "Conversion") -> None:
    fidelity = conversion.fidelity
    if conversion.exact:
        click.echo("Exact: read back, every logit and every other array is what it was.")
    if conversion.largest_error is not None and fidelity is not None:
        click.echo(f"Not exact: logits are off by up to {conversion.largest_error:.3g}.")
        kl = ", ".join(f"{value:.3g} at T={temperature:g}" for temperature, value in fidelity.kl.items())
        click.echo(f"  over {fidelity.rows:,} rows: KL {kl} nats; top-1 flips {fidelity.top1_flips:.3%};")
        click.echo(
            f"  ties of neighbours {fidelity.adjacent_ties:.3%}; rank correlation {fidelity.rank_correlation:.6f}"
        )
    for remark in conversion.remarks:
        click.echo(remark)
