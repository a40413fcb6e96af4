"""``kdpipe report``."""

from pathlib import Path

import click

from .options import LocalPath, StorePath, json_option


@click.command()
@click.argument("path", metavar="PATH", type=StorePath())
@click.option("--out", type=LocalPath(), metavar="FILE.html", help="The page to write.")
@click.option("--against", type=StorePath(), metavar="STORE", help="Of a store: compare it with this one.")
@click.option("--temperature", "temperatures", multiple=True, type=float, metavar="T",
              help="Of a store: tell probability masses at T; repeatable.  [default: 1, 4]")  # fmt: skip
@click.option("--baseline", type=click.Path(path_type=Path), metavar="RUN", help="Of a run: compare it with this one.")
@click.option("--store", type=StorePath(), help="Of a run: a teacher's store, best of the validation samples.")
@json_option
def report(
    *,
    path: Path | str,
    out: Path | None,
    against: Path | str | None,
    temperatures: tuple[float, ...],
    baseline: Path | None,
    store: Path | str | None,
    as_json: bool,
) -> None:
    """Say how biased a teacher is, what a run gained, or what a sweep found: one HTML page that loads nothing.

    PATH is a store (or its address), the folder of a run or that of a sweep; also an unfinished one.

    \b
    kdpipe report photos.kd --out photos.html
    kdpipe report photos.kd --against other.kd --temperature 4 --out photos.html
    kdpipe report runs/ltkd --baseline runs/kd --out ltkd.html
    kdpipe report runs/ltkd --json
    """
    from ..pipeline.report import ReportConfig
    from ..pipeline.report import report as run
    from .show import show_json

    result = run(
        ReportConfig(path=path, out=out, against=against, temperatures=temperatures, baseline=baseline, store=store)
    )
    if as_json:
        show_json({"kind": result.kind, "conclusions": result.conclusions, **_fields(result.numbers)})
        return
    for sentence in result.conclusions:
        click.echo(sentence)
    if result.out is not None:
        click.echo(f"Written: {result.out}", err=True)


def _fields(value: object) -> dict[str, object]:
    """The fields of a dataclass, by name."""
    from dataclasses import fields

    return {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
