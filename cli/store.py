"""``kdpipe store``: looking after stores."""

from pathlib import Path

import click

from .card import card
from .convert import convert
from .importing import import_
from .options import StorePath, json_option
from .remote import ls, pull, push
from .reshape import map_classes, merge, regroup, subset
from .verify import repair, verify


@click.group()
def store() -> None:
    """Look after stores; share them (ls, pull, push); make others of them (merge, subset, regroup, map-classes)."""


@store.command()
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


store.add_command(verify)
store.add_command(repair)
store.add_command(ls)
store.add_command(pull)
store.add_command(push)
store.add_command(card)
store.add_command(convert)
store.add_command(merge)
store.add_command(subset)
store.add_command(regroup)
store.add_command(map_classes)
store.add_command(import_)
