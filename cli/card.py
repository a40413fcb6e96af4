"""``kdpipe store card``."""

from pathlib import Path

import click

from .options import StorePath, json_option


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder for README.md and croissant.json; the store's own, to publish it with them.")  # fmt: skip
@json_option
def card(*, path: Path | str, out: Path, as_json: bool) -> None:
    """Write what a borrower must know: a README.md with a dataset card, and Croissant metadata.

    Both come from the manifest and the class table. In the store itself, `verify` notes that they do not belong to it.

    \b
    kdpipe store card photos.kd --out photos.kd
    """
    import json

    from ..stores.cards.card import card as page_of
    from ..stores.cards.croissant import croissant
    from ..stores.files import write_file
    from ..stores.reader import open_store
    from .show import show_json

    store = open_store(path, allow_unfinished=True)
    metadata = croissant(store)
    write_file(out, "README.md", page_of(store).encode())
    write_file(out, "croissant.json", (json.dumps(metadata, indent=2) + "\n").encode())
    if as_json:
        show_json(metadata)
    else:
        click.echo(f"Written: {out / 'README.md'}, {out / 'croissant.json'}")
