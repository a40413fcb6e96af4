"""``kdpipe store``: looking after stores."""

import click

from .lazy import LazyCommand, LazyGroup

COMMANDS = {
    "inspect": LazyCommand("inspect:inspect", "Say what a store is; reads its manifest alone."),
    "verify": LazyCommand("verify:verify", "Say whether a store is whole; exit code 0 if it is, 3 if it is not."),
    "repair": LazyCommand(
        "verify:repair", "Move what is damaged into STORE/quarantine, so that extract makes it again."
    ),
    "ls": LazyCommand("remote:ls", "List the stores under an address or a folder, from their manifests alone."),
    "pull": LazyCommand("remote:pull", "Copy a store, or a part of it, to a folder."),
    "push": LazyCommand(
        "remote:push", "Copy a finished store, from a folder or an address, to s3://, gs://, az:// or a folder."
    ),
    "card": LazyCommand(
        "card:card", "Write what a borrower must know: a README.md with a dataset card, and Croissant metadata."
    ),
    "convert": LazyCommand("convert:convert", "Write a store in another format or codec, and say what that changed."),
    "merge": LazyCommand(
        "reshape:merge",
        "Put the rows of several stores of one teacher into one store; or the views of several parts of one.",
    ),
    "subset": LazyCommand("reshape:subset", "Take a part of a store: rows, classes, views."),
    "regroup": LazyCommand(
        "reshape:regroup", "Give a store other head, medium and tail classes; its payload is linked, not written again."
    ),
    "map-classes": LazyCommand(
        "reshape:map_classes", "Turn a teacher's classes into a student's: select, merge, rename, reorder."
    ),
    "import": LazyCommand(
        "importing:import_", "Make a store of logits that somebody else computed; nothing in SOURCE is ever run."
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def store() -> None:
    """Look after stores; share them (ls, pull, push); make others of them (merge, subset, regroup, map-classes)."""
