"""``kdpipe store import``."""

from pathlib import Path
from typing import Any

import click

from .options import NewStorePath, ProgressBar, json_option


@click.command(name="import")
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=NewStorePath(), metavar="STORE", help="The store to write.")
@click.option("--classes", required=True, metavar="FILE|NAME",
              help="Class names in order: a text file, one a line, or an array of SOURCE.")  # fmt: skip
@click.option("--labels", required=True, metavar="FILE|NAME", help="Class number or name of every row, likewise.")
@click.option("--ids", required=True, metavar="FILE|NAME", help="Sample id of every row, likewise.")
@click.option("--logits", metavar="NAME", help="The array of SOURCE, where it has several.  [default: logits]")
@click.option("--codec", metavar="SPEC", help="As for kdpipe extract.  [default: so that nothing is lost]")
@click.option("--preprocess", default="image", metavar="SPEC", show_default=True,
              help="What the teacher's inputs were made with.")  # fmt: skip
@click.option("--size", default=224, type=click.IntRange(1), show_default=True,
              help="Side in pixels to which FKD's crops are scaled for students.")  # fmt: skip
@click.option("--groups", metavar="RULE",
              help="thirds, counts:100,20, single, or a CSV/Parquet file.  [default: thirds]")  # fmt: skip
@click.option("--rank-depth", type=click.IntRange(1), help="Keep only so many of the best ranks.")
@click.option("--chunk-rows", type=click.IntRange(1), help="Rows of a chunk; 4096 unless classes are very many.")
@click.option("--owner", help="Whom to ask about the store, for the record.")
@click.option("--licence", help="Licence of the store, for the record.")
@click.option("--note", help="Anything else, for the record.")
@json_option
def import_(*, out: Path, as_json: bool, **settings: Any) -> None:
    """Make a store of logits that somebody else computed; nothing in SOURCE is ever run.

    SOURCE is a .npy, .npz, .safetensors or .pt file with an array (samples, classes), or the folder of TinyViT's saved
    logits or of FKD's soft labels. Run again, the same command goes on. What is written is verified, and compared with
    SOURCE. See docs/import.md.

    \b
    kdpipe store import logits.npz --ids ids --labels labels --classes classes.txt --out old.kd
    """
    from ..pipeline.importing import ImportConfig, import_store
    from .show import show_manifest

    with ProgressBar("chunks") as update:
        manifest = import_store(ImportConfig(out=out, **settings), lambda done, total: update(done=done, total=total))
    show_manifest(out, manifest, as_json=as_json)
