"""``kdpipe plan``."""

from typing import TYPE_CHECKING, Any

import click

from .options import LocalPath, auto_int, comma_ints, comma_list, config_option, json_option, size_text

if TYPE_CHECKING:
    from ..pipeline.plan import Estimate, Fidelity, Plan, StoreCost


@click.command()
@config_option
@click.option("--data", required=True, metavar="SPEC", help="The data set, e.g. folder:DIR or fashion-mnist:DIR.")
@click.option("--teacher", required=True, metavar="SPEC", help="The teacher, e.g. kdpipe:resnet32x4,weights=FILE.")
@click.option("--out", default=".", type=LocalPath(), show_default=True,
              help="Where the store will be: that disk is measured, and nothing is left there.")  # fmt: skip
@click.option("--codecs", metavar="SPEC,SPEC,...", default="", help="By default all kinds that fit the teacher.")
@click.option("--views", default="1", metavar="N,N,...", callback=comma_ints, show_default=True,
              help="How many augmented views there may be.")  # fmt: skip
@click.option("--augment", metavar="SPEC", help="How views are drawn, as for kdpipe extract.")
@click.option("--pilot", type=click.IntRange(2), metavar="N",
              help="Samples of the pilot.  [default: what a steady speed needs, a minute at most]")  # fmt: skip
@click.option("--student", metavar="SPEC", help="A student, for the break-even number.  [default: a small one]")
@click.option("--epochs", default=30, type=click.IntRange(1), show_default=True, help="Of a student's training.")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Of the choice of samples.")
@click.option("--preprocess", metavar="SPEC", help="image,resize=256,crop=224,...; by default the teacher's own.")
@click.option("--write", default="logits,ranks", callback=comma_list, help="Arrays to write.", show_default=True)
@click.option("--format", default="zarr", type=click.Choice(["zarr", "parquet", "parquet-lists"]), show_default=True,
              help="Of the payload.")  # fmt: skip
@click.option("--groups", default="thirds", metavar="RULE", show_default=True,
              help="Class groups: thirds, counts:100,20, or a CSV/Parquet file.")  # fmt: skip
@click.option("--rank-depth", type=click.IntRange(1), help="Keep only so many of the best ranks.")
@click.option("--chunk-rows", type=click.IntRange(1), help="Rows of a chunk; 4096 unless classes are very many.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), show_default=True,
              help="Of the teacher's pass.")  # fmt: skip
@click.option("--runtime", default="torch", type=click.Choice(["torch", "compile", "onnx"]), show_default=True,
              help="What runs the teacher.")  # fmt: skip
@click.option("--batch-size", default="auto", callback=auto_int, show_default=True, help="auto or a number.")
@click.option("--workers", default="auto", callback=auto_int, show_default=True, help="Reading processes.")
@json_option
def plan(
    *,
    codecs: str,
    views: tuple[int, ...],
    pilot: int | None,
    student: str | None,
    epochs: int,
    seed: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Say what an extraction will cost and change, from a pilot, before it is paid for.

    \b
    kdpipe plan --data folder:photos/train --teacher torchvision:resnet50,weights=teacher.pt --out photos.kd

    For every codec and number of views: hours, bytes, and the number of students from which on the store pays; and how
    far every codec changes what the teacher says. The flags of kdpipe extract that decide these are the same.
    """
    from ..pipeline import ExtractConfig
    from ..pipeline.plan import PlanConfig, make_plan
    from ..pipeline.plan.plan import codec_list
    from .show import show_json

    config = PlanConfig(
        extract=ExtractConfig(**settings),
        codecs=codec_list(codecs),
        views=views,
        pilot=pilot,
        student=student,
        epochs=epochs,
        seed=seed,
    )
    result = make_plan(config)
    if as_json:
        show_json(result)
    else:
        _show(result)


def _show(plan: "Plan") -> None:
    """Two tables: costs by codec and views, changes by codec; then what was measured, and what could not be."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 150
    console.print(_costs(plan))
    console.print(_changes(plan))
    for line in (*_measured(plan), *plan.notes):
        click.echo(line)


def _costs(plan: "Plan") -> object:
    def line(cost: "StoreCost") -> tuple[str, ...]:
        students = "-" if cost.break_even_students is None else f"{cost.break_even_students:,}"
        size = f"{size_text(cost.bytes)}{'' if cost.fits else ' (no room)'}"
        return cost.codec, f"{cost.views:,}", _hours(cost.seconds), size, f"{cost.bytes_per_view:,.1f}", students

    head = ("codec", "views", "hours", "bytes", "bytes / sample, view", f"pays from students of {_epochs(plan)}")
    return _table(f"{plan.num_samples:,} samples, {plan.num_classes:,} classes", head, map(line, plan.costs))


def _changes(plan: "Plan") -> object:
    def line(found: "Fidelity") -> tuple[str, ...]:
        return (
            found.codec,
            _small(found.kl.get("1")),
            _small(found.kl.get("4")),
            _percent(found.top1_flips),
            _percent(found.adjacent_ties),
            _small(found.rank_correlation, ".5f"),
            _small(found.group_mass_error.get("4")),
            _percent(found.coverage["tail"].get("1")),
        )

    head = ("codec", "KL T=1", "KL T=4", "top-1 flips", "rank ties", "rank corr.", "group mass T=4", "tail kept T=1")
    title = f"what changes: mean over {plan.fidelity[0].samples:,} samples ± standard error"
    return _table(title, head, map(line, plan.fidelity))


def _measured(plan: "Plan") -> list[str]:
    pilot, student = plan.pilot, plan.student
    lines = [
        f"Measured on {plan.device}, {plan.precision}: {1 / pilot.seconds_per_sample:,.1f} samples/s over "
        f"{pilot.steady_samples:,} of a pilot of {pilot.samples:,} (batches of {pilot.batch_size}, {pilot.workers} "
        f"reading processes); {pilot.start_seconds:.1f} s to load, {pilot.warm_up_seconds:.1f} s to warm up.",
        f"The disk takes {pilot.write_bytes_per_second / 1e6:,.0f} MB/s and has {size_text(pilot.free_bytes)} free.",
    ]
    if student is not None:
        lines.append(
            f"{student.student}: {1e3 * student.seconds_per_sample:.3g} ms a sample from given logits, "
            f"{1e3 * student.live_seconds_per_sample:.3g} ms with the teacher live."
        )
    return lines


def _table(title: str, head: tuple[str, ...], lines: Any) -> object:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
    for line in lines:
        table.add_row(*line)
    return table


def _epochs(plan: "Plan") -> str:
    return "-" if plan.student is None else f"{plan.student.epochs} epochs"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}" if seconds >= 36 else f"{seconds / 3600:.4f}"


def _small(estimate: "Estimate | None", form: str = ".1e") -> str:
    return "-" if estimate is None else f"{estimate.value:{form}} ± {estimate.error:.0e}"


def _percent(estimate: "Estimate | None") -> str:
    return "-" if estimate is None else f"{estimate.value:.2%} ± {estimate.error:.2%}"
