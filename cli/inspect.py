"""``kdpipe store inspect``."""

from pathlib import Path

import click

from .options import StorePath, json_option


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@json_option
def inspect(*, path: Path | str, as_json: bool) -> None:
    """Say what a store is; reads its manifest alone.

    \b
    kdpipe store inspect digits.kd
    kdpipe store inspect digits.kd --json
    kdpipe store inspect s3://team/stores/digits.kd
    """
    from ..stores.reader import open_store
    from .show import show_manifest

    store = open_store(path, allow_unfinished=True)
    show_manifest(str(store), store.manifest, as_json=as_json)
