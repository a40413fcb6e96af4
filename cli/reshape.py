"""``kdpipe store merge``, ``subset``, ``regroup`` and ``map-classes``: new stores from finished ones."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import NewStorePath, ProgressBar, StorePath, comma_list, json_option

if TYPE_CHECKING:
    from ..stores.manifest import Manifest

out_option = click.option("--out", required=True, type=NewStorePath(), metavar="STORE", help="The new store.")
groups_option = click.option("--groups", metavar="RULE", help="thirds, counts:100,20, or a CSV or Parquet file.")
chunk_rows_option = click.option(
    "--chunk-rows", type=click.IntRange(1), help="Rows of a chunk.  [default: 4096, fewer where rows are wide]"
)
drop_others_option = click.option(
    "--drop-others", is_flag=True, help="Leave out samples whose class is not kept.  [default: refuse them]"
)


@click.command()
@click.argument("paths", metavar="STORE STORE...", nargs=-1, required=True, type=StorePath())
@out_option
@groups_option
@chunk_rows_option
@json_option
def merge(
    *, paths: tuple[Path | str, ...], out: Path, groups: str | None, chunk_rows: int | None, as_json: bool
) -> None:
    """Put the rows of several stores of one teacher into one store; or the views of several parts of one.

    The stores must agree in teacher, classes, preprocessing, arrays and codec, and share no sample. Or they are parts
    of one store, with some of its views or chunks each. Run again, the same command goes on.

    \b
    kdpipe store merge first.kd second.kd --out both.kd
    """
    from ..stores.reshape.merge import merge as run

    _run(lambda update: run(paths, out, groups=groups, chunk_rows=chunk_rows, on_progress=update), out, as_json)


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@out_option
@click.option("--rows", metavar="A-B,...", help="Only these rows, both ends included.")
@click.option("--ids", type=click.Path(path_type=Path), help="Only the sample ids in this file, one on each line.")
@click.option("--labels", callback=comma_list, metavar="A,B", help="Only samples of these classes, by name or number.")
@click.option("--per-class", type=click.IntRange(1), help="At most so many samples of each class, drawn at random.")
@click.option("--seed", default=0, show_default=True, help="Of --per-class.")
@click.option("--classes", callback=comma_list, metavar="A,B", help="Keep only these classes, by name or number.")
@drop_others_option
@click.option("--views", type=click.IntRange(1), help="Keep so many views, from view 0.")
@chunk_rows_option
@json_option
def subset(
    *, path: Path | str, out: Path, rows: str | None, chunk_rows: int | None, as_json: bool, **wanted: Any
) -> None:
    """Take a part of a store: rows, classes, views. All conditions hold together.

    Classes that are kept keep their logits and their groups, and ranks are counted among them.

    \b
    kdpipe store subset photos.kd --per-class 100 --out small.kd
    kdpipe store subset photos.kd --classes cat,dog --drop-others --out pets.kd
    """
    from ..stores.reshape.subset import Subset, parse_spans
    from ..stores.reshape.subset import subset as run

    part = Subset(rows=parse_spans(rows) if rows else (), **wanted)
    _run(lambda update: run(path, out, part, chunk_rows=chunk_rows, on_progress=update), out, as_json)


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@out_option
@click.option("--groups", required=True, metavar="RULE", help="thirds, counts:100,20, or a CSV or Parquet file.")
@json_option
def regroup(*, path: Path | str, out: Path, groups: str, as_json: bool) -> None:
    """Give a store other head, medium and tail classes; its payload is linked, not written again.

    \b
    kdpipe store regroup photos.kd --groups counts:100,20 --out photos-counts.kd
    """
    from ..stores.reshape.regroup import regroup as run

    _run(lambda update: run(path, out, groups, on_progress=update), out, as_json)


@click.command(name="map-classes")
@click.argument("path", metavar="STORE", type=StorePath())
@click.option(
    "--map", "class_map", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="CSV or Parquet with columns teacher and student, or TOML.",
)  # fmt: skip
@out_option
@click.option("--groups", metavar="RULE", help="How the new classes are grouped.  [default: the store's rule]")
@click.option("--codec", metavar="SPEC", help="How the new logits are stored.  [default: the store's, else float16]")
@drop_others_option
@chunk_rows_option
@json_option
def map_classes(*, path: Path | str, out: Path, as_json: bool, **settings: Any) -> None:
    """Turn a teacher's classes into a student's: select, merge, rename, reorder.

    Each line of the map says which student class a teacher's class becomes, or a part of which. The probability of a
    merged class is the sum of its parts'.

    \b
    kdpipe store map-classes photos.kd --map animals.csv --out animals.kd
    """
    from ..stores.reshape.map_classes import map_classes as run

    _run(lambda update: run(path, out, on_progress=update, **settings), out, as_json)


def _run(make: "Callable[[Callable[[int, int], None]], Manifest]", out: Path, as_json: bool) -> None:
    """Make the store, with a progress bar, and show what it is."""
    from .show import show_manifest

    with ProgressBar("chunks") as update:
        manifest = make(lambda done, total: update(done=done, total=total))
    show_manifest(out, manifest, as_json=as_json)
