"""``kdpipe store ls``, ``kdpipe store pull`` and ``kdpipe store push``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import LocalPath, ProgressBar, StorePath, comma_list, json_option, printable, size_text

if TYPE_CHECKING:
    from ..stores.remote.catalog import Entry

codec_option = click.option("--codec", metavar="SPEC", help="Write the copy in this codec, such as int8+zstd.")
scratch_option = click.option(
    "--scratch", type=LocalPath(), help="Where --codec keeps a store meanwhile.  [default: beside STORE]"
)


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@click.argument("url", metavar="URL")
@click.option("--alone", is_flag=True, help="Nobody else writes there: allow a server without conditional writes.")
@codec_option
@scratch_option
@json_option
def push(*, path: Path | str, url: str, alone: bool, codec: str | None, scratch: Path | None, as_json: bool) -> None:
    """Copy a finished store, from a folder or an address, to s3://, gs://, az:// or a folder.

    Every object is compared with its receipt before it is sent and after; the manifest comes last. Run again, the same
    command goes on; of a store that is there, it proves every object, and mends what is damaged. A card goes along.

    \b
    kdpipe store push digits.kd s3://team/stores/digits.kd
    kdpipe store push digits.kd s3://team/stores/digits-int8.kd --codec int8+zstd
    """
    from ..stores.remote.push import push as run
    from ..stores.remote.recoded import push_recoded
    from .show import show_json

    with ProgressBar("bytes", of_bytes=True) as update:

        def report(done: int, total: int) -> None:
            update(done=done, total=total)

        if codec is None:
            pushed = run(path, url, alone=alone, on_progress=report)
        else:
            click.echo(f"Making a copy in the codec {codec} first.", err=True)
            pushed = push_recoded(path, url, codec, scratch=scratch, alone=alone, on_progress=report)
    if as_json:
        show_json(asdict(pushed))
        return
    if pushed.finished_before:
        click.echo("The store was there already; every object of it was proved.", err=True)
    click.echo(f"{pushed.url}  store id {pushed.store_id}")
    click.echo(f"  sent      {size_text(pushed.bytes_sent)} of {size_text(pushed.bytes)}")
    click.echo(f"  receipts  {pushed.receipts}")


@click.command()
@click.argument("url", metavar="URL")
@click.argument("path", metavar="STORE", type=LocalPath("Copy from one address to another by kdpipe store push."))
@click.option("--arrays", callback=comma_list, help="Only these arrays: logits, ranks.  [default: all]")
@click.option("--rows", metavar="A-B", help="Only the chunks that hold these rows, both included.  [default: all]")
@click.option("--views", metavar="0-B", help="Only these views, both included.  [default: all]")
@codec_option
@scratch_option
@json_option
def pull(
    *, url: str, path: Path, arrays: tuple[str, ...], rows: str | None, views: str | None, codec: str | None,
    scratch: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Copy a store, or a part of it, to a folder.

    A part is a valid store by itself, which names the store it comes from. Every object is compared with its receipt;
    run again, the same command goes on.

    \b
    kdpipe store pull s3://team/stores/digits.kd digits.kd
    kdpipe store pull s3://team/stores/digits.kd ranks.kd --arrays ranks
    kdpipe store pull s3://team/stores/digits-int8.kd digits.kd --codec float16
    """
    from ..stores.remote.pull import pull as run
    from ..stores.remote.recoded import pull_recoded
    from ..stores.remote.selection import Selection
    from .show import show_json

    selection = Selection.parse(arrays, rows, views)
    with ProgressBar("bytes", of_bytes=True) as update:

        def report(done: int, total: int) -> None:
            update(done=done, total=total)

        if codec is None:
            pulled = run(url, path, selection, on_progress=report)
        else:
            click.echo(f"What is pulled is then written in the codec {codec}.", err=True)
            pulled = pull_recoded(url, path, codec, selection, scratch=scratch, on_progress=report)
    if as_json:
        show_json(asdict(pulled))
        return
    if pulled.finished_before:
        click.echo(f"{path} is finished already; nothing was changed.", err=True)
    click.echo(f"{pulled.path}  store id {pulled.store_id}")
    if not pulled.finished_before:
        click.echo(f"  fetched   {size_text(pulled.bytes_fetched)} of {size_text(pulled.bytes)}")
    click.echo(f"  receipts  {pulled.receipts}")


@click.command(name="ls")
@click.argument("url", metavar="URL")
@click.option("--fits", metavar="SPEC", help="Only stores that fit this data set.")
@json_option
def ls(*, url: str, fits: str | None, as_json: bool) -> None:
    """List the stores under an address or a folder, from their manifests alone.

    With --fits, stores of exactly these samples come first; then those with the same classes but other samples, which
    may share some with the data set.

    \b
    kdpipe store ls s3://team/stores
    kdpipe store ls s3://team/stores --fits digits,split=train
    """
    from ..stores.remote.catalog import catalog
    from .show import show_json

    entries = catalog(url)
    if fits is not None:
        from ..pipeline.fits import fitting

        entries = fitting(entries, fits)
    if as_json:
        show_json([asdict(entry) for entry in entries])
        return
    _show_catalog(entries)


def _show_catalog(entries: "list[Entry]") -> None:
    from .show import show_table

    rows = []
    for entry in entries:
        accuracy = "" if entry.accuracy is None else f"{100 * entry.accuracy:.1f} %"
        size = "" if entry.payload_bytes is None else size_text(entry.payload_bytes)
        counts = (f"{n:,}" if n is not None else "" for n in (entry.samples, entry.classes, entry.views))
        rows.append(
            (entry.name, entry.state, entry.fits or "", entry.teacher or "", accuracy, entry.data or "", *counts,
             _numbers(entry), size, entry.licence or "", entry.owner or "")
        )  # fmt: skip
    head = ("store", "state", "fits", "teacher", "accuracy", "data", "samples", "classes", "views", "codec", "size",
            "licence", "owner")  # fmt: skip
    show_table(head, rows) if rows else click.echo("No store was found.", err=True)
    for entry in entries:
        if entry.problem:
            click.echo(printable(f"{entry.name}: {entry.problem}"), err=True)


def _numbers(entry: "Entry") -> str:
    """The codec of the logits, and the ranks, as far as a store has them."""
    has_ranks = any(array.startswith("ranks ") for array in entry.arrays)
    return " + ".join([*([entry.codec] if entry.codec else []), *(["ranks"] if has_ranks else [])])
