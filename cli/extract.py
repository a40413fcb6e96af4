"""``kdpipe extract``."""

import time
from typing import Any

import click

from .options import NewStorePath, ProgressBar, auto_int, comma_list, config_option, json_option, recipe_option


@click.command()
@config_option
@recipe_option
@click.option("--data", required=True, metavar="SPEC", help="The data set, e.g. folder:DIR or fashion-mnist:DIR.")
@click.option("--teacher", required=True, metavar="SPEC", help="The teacher, e.g. kdpipe:resnet32x4,weights=FILE.")
@click.option("--out", required=True, type=NewStorePath(), help="The store to write, by custom NAME.kd.")
@click.option("--preprocess", metavar="SPEC", help="image,resize=256,crop=224,...; by default the teacher's own.")
@click.option("--views", default=1, show_default=True, type=click.IntRange(1),
              help="How many augmented views; more than a store has are added to it.")  # fmt: skip
@click.option("--augment", metavar="SPEC",
              help="How views are drawn: crop-flip,size=32,padding=4, rrc-flip,size=224, trivial-augment, "
              "rand-augment, or FILE.toml; with mixup=ALPHA, cutmix=ALPHA.")  # fmt: skip
@click.option("--write", default="logits,ranks", callback=comma_list, help="Arrays to write.", show_default=True)
@click.option("--codec", default="float16", metavar="SPEC", show_default=True,
              help="How logits are stored: float16, float32, int8, topk:K,temperatures=1,4 or factorised; "
              "with +zstd, compressed.")  # fmt: skip
@click.option("--format", default="zarr", type=click.Choice(["zarr", "parquet", "parquet-lists"]), show_default=True,
              help="Of the payload: Zarr, or Parquet with a row as bytes (fast) or as a list of numbers.")  # fmt: skip
@click.option("--groups", default="thirds", metavar="RULE", show_default=True,
              help="Class groups: thirds, counts:100,20, or a CSV/Parquet file.")  # fmt: skip
@click.option("--rank-depth", type=click.IntRange(1), help="Keep only so many of the best ranks.")
@click.option("--chunk-rows", type=click.IntRange(1), help="Rows of a chunk; 4096 unless classes are very many.")
@click.option("--order", default="dataset", show_default=True, help="Row order: dataset, shuffled or shuffled:SEED.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), show_default=True,
              help="Of the teacher's pass.")  # fmt: skip
@click.option("--runtime", default="torch", type=click.Choice(["torch", "compile", "onnx"]), show_default=True,
              help="What runs the teacher: torch, torch.compile, or onnxruntime, often faster on a CPU.")  # fmt: skip
@click.option("--batch-size", default="auto", callback=auto_int, show_default=True, help="auto or a number.")
@click.option("--workers", default="auto", callback=auto_int, show_default=True, help="Reading processes.")
@click.option("--on-bad-sample", default="fail", type=click.Choice(["fail", "skip"]), show_default=True,
              help="At a sample that cannot be read: stop, or read all first and leave those out.")  # fmt: skip
@click.option(
    "--chunks", metavar="I/N", help="Make only the I-th of N equal ranges of the chunks, as an array job does."
)
@click.option("--engine", default="local", type=click.Choice(["local", "ray"]), show_default=True,
              help="This process (or torchrun's), or actors on a Ray cluster (RAY_ADDRESS).")  # fmt: skip
@click.option("--actors", metavar="MIN..MAX", help="With Ray: how many; by default from 1 to one a GPU (or core).")
@click.option("--extractor", help="Who runs this, for the record.")
@click.option("--owner", help="Whom to ask about the store, for the record.")
@click.option("--licence", help="Licence of the store, for the record.")
@click.option("--note", help="Anything else, for the record.")
@json_option
def extract(*, as_json: bool, **settings: Any) -> None:
    """Run a teacher once over a data set and write its logits and ranks to a store.

    \b
    kdpipe extract --data folder:photos/train --teacher torchvision:resnet50,weights=teacher.pt \\
                   --out photos.kd

    Run again after an interruption, the same command goes on with the chunks that are missing. Several processes may
    run it at once: torchrun, an array job (--chunks) or a Ray cluster (--engine ray), see docs/scale.md.
    """
    from ..pipeline import ExtractConfig, Progress
    from ..pipeline import extract as run
    from ..pipeline.ranks import Ranks
    from ..stores import BadSampleError
    from .show import show_manifest

    started = time.perf_counter()
    with ProgressBar("images") as update:

        def on_progress(progress: Progress) -> None:
            speed = progress.computed / (time.perf_counter() - started)
            update(done=progress.found + progress.computed, total=progress.total, speed=f"{speed:,.0f} images/s")

        try:
            result = run(ExtractConfig(**settings), on_progress)
        except BadSampleError as error:
            raise BadSampleError(f"{error} To leave such samples out: --on-bad-sample skip.") from error
    if not Ranks.from_environment().first:
        return
    if result.was_complete:
        click.echo(f"{settings['out']} is finished already; nothing was changed.", err=True)
    elif result.manifest.state != "complete":
        click.echo(f"The range {settings['chunks']} is made. The last range to be made finishes the store.", err=True)
    show_manifest(settings["out"], result.manifest, as_json=as_json)
