"""``kdpipe store card``."""

from pathlib import Path

import click

from .options import LocalPath, StorePath, json_option


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@click.option("--out", type=LocalPath(), metavar="DIR",
              help="Folder for README.md and croissant.json.  [default: the store's own]")  # fmt: skip
@json_option
def card(*, path: Path | str, out: Path | None, as_json: bool) -> None:
    """Write what a borrower must know: a README.md with a dataset card, and Croissant metadata.

    Both come from the manifest and the class table. In the store's folder they are no part of the store, but push and
    pull take them along.

    \b
    kdpipe store card photos.kd
    kdpipe store card s3://team/stores/photos.kd --out card
    """
    from ..stores.cards.write import write_card
    from ..stores.errors import UsageError
    from ..stores.layout import CARD, CROISSANT
    from ..stores.reader import open_store
    from .show import show_json

    if out is None and isinstance(path, str):
        raise UsageError("The card of an address is written to a folder of this machine: give --out DIR.")
    out = Path(path) if out is None else out
    metadata = write_card(open_store(path, allow_unfinished=True), out)
    if as_json:
        show_json(metadata)
    else:
        click.echo(f"Written: {out / CARD}, {out / CROISSANT}")
