"""``kdpipe store``: looking after stores."""

from pathlib import Path

import click

from .options import json_option
from .verify import repair, verify


@click.group()
def store() -> None:
    """Look after stores: inspect, verify, repair."""


@store.command()
@click.argument("path", metavar="STORE", type=click.Path(path_type=Path))
@json_option
def inspect(*, path: Path, as_json: bool) -> None:
    """Say what a store is; reads its manifest alone.

    \b
    kdpipe store inspect digits.kd
    kdpipe store inspect digits.kd --json
    """
    from ..stores.reader import open_store
    from .show import show_manifest

    show_manifest(path, open_store(path, allow_unfinished=True).manifest, as_json=as_json)


store.add_command(verify)
store.add_command(repair)
