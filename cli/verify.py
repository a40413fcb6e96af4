"""``kdpipe store verify`` and ``kdpipe store repair``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..stores.remote.location import is_url
from .options import LocalPath, ProgressBar, StorePath, json_option, printable, size_text

if TYPE_CHECKING:
    from ..stores.checks.repair import Repair
    from ..stores.checks.report import Finding, Report

REFUSED = 3
_SHOWN = 50
_MENDED_BY_OWNER = "Its owner can mend it: the same `kdpipe store push` again."


@click.command()
@click.argument("path", metavar="STORE", type=StorePath())
@click.option("--deep", is_flag=True, help="Also read everything: checksums, and values against each other.")
@click.option("--teacher", metavar="SPEC", help="Let this teacher compute some rows again and compare; needs --data.")
@click.option("--data", metavar="SPEC", help="The data the store was made from, for --teacher.")
@click.option("--preprocess", metavar="SPEC", help="As it was given to extract, if it was; for --teacher.")
@click.option("--rows", default=32, show_default=True, type=click.IntRange(1), help="Rows for --teacher.")
@click.option("--device", default="auto", show_default=True, help="Where --teacher runs.")
@json_option
def verify(
    *,
    path: Path | str,
    deep: bool,
    teacher: str | None,
    data: str | None,
    preprocess: str | None,
    rows: int,
    device: str,
    as_json: bool,
) -> None:
    """Say whether a store is whole; exit code 0 if it is, 3 if it is not.

    Checks sizes, receipts and table footers; with --deep every byte. Of a remote store, values are not compared with
    each other, but every object with its checksum. Warnings alone leave the exit code at 0.

    \b
    kdpipe store verify photos.kd --deep
    kdpipe store verify s3://team/stores/photos.kd
    kdpipe store verify photos.kd --teacher torchvision:resnet50,weights=teacher.pt --data folder:photos/train
    """
    from ..stores.checks.verify import verify as run
    from ..stores.errors import UsageError

    if (teacher is None) != (data is None):
        raise UsageError("--teacher and --data go together: the teacher that made the store, and the data it saw.")
    with ProgressBar("chunks") as update:
        report = run(path, deep=deep, on_progress=lambda done, total: update(done=done, total=total))
    if teacher is not None and data is not None:
        if all(finding.check == "unfinished" for finding in report.errors) and report.chunks_checked == report.chunks:
            from ..pipeline.recheck import recheck

            replay = recheck(path, teacher=teacher, data=data, preprocess=preprocess, rows=rows, device=device)
            report = replay.added_to(report)
        else:
            click.echo("The teacher was not run: the store is not whole.", err=True)
    _show_report(report, as_json=as_json)
    if not report.whole:
        raise click.exceptions.Exit(REFUSED)


@click.command()
@click.argument("path", metavar="STORE", type=LocalPath(_MENDED_BY_OWNER))
@json_option
def repair(*, path: Path, as_json: bool) -> None:
    """Move what is damaged into STORE/quarantine, so that extract makes it again.

    Verifies deeply first; a whole store is left as it is. Nothing is deleted. Exit code 0 if the store was whole or
    the damage was set aside, 3 if it cannot be repaired.

    \b
    kdpipe store repair photos.kd
    """
    from ..stores.checks.repair import repair as run

    with ProgressBar("chunks") as update:
        repaired = run(path, on_progress=lambda done, total: update(done=done, total=total))
    _show_repair(repaired, as_json=as_json)
    if repaired.not_repairable:
        raise click.exceptions.Exit(REFUSED)


def _show_report(report: "Report", *, as_json: bool) -> None:
    from .show import show_json

    if as_json:
        show_json({"whole": report.whole, **_fields(report)})
        return
    quickly = "receipts and sizes" if is_url(report.path) else "receipts, sizes and table footers"
    depth = "every byte" if report.deep else quickly
    click.echo(f"{report.path}  store id {report.store_id or 'unknown'}, {report.state or 'no manifest'}")
    missing = f" ({report.chunks_missing:,} missing)" if report.chunks_missing else ""
    click.echo(f"  checked   {depth}: {report.chunks_checked:,} of {report.chunks:,} chunks{missing}, "
               f"{report.files_checked:,} files, {size_text(report.bytes_read)} read")  # fmt: skip
    if report.rows_recomputed:
        off = "" if report.largest_difference is None else f", logits at most {report.largest_difference:.2g} off"
        click.echo(f"  replayed  {report.rows_recomputed:,} rows{off}")
    _show_findings(report.findings)
    for note in report.notes:
        click.echo(f"  note      {printable(note)}")
    if report.stopped:
        click.echo("  There is more that is wrong; this is where the check stopped.")
    damaged = any(finding.check not in ("unfinished", "replay") for finding in report.errors)
    advice = (
        (_MENDED_BY_OWNER if is_url(report.path) else f"Run `kdpipe store repair {report.path}`.") if damaged else ""
    )
    counts = f"{len(report.errors):,} error(s), {len(report.warnings):,} warning(s)"
    click.echo(f"Whole: {counts}." if report.whole else f"Not whole: {counts}. {advice}".rstrip())


def _show_repair(repaired: "Repair", *, as_json: bool) -> None:
    from .show import show_json

    if as_json:
        show_json(_fields(repaired))
        return
    _show_findings(repaired.findings)
    lost = [finding for finding in repaired.findings if finding.check in ("manifest", "missing")]
    folder = Path(repaired.path, repaired.quarantine or "")
    moved = f"Moved {len(repaired.moved):,} file(s) to {folder}.\n" if repaired.moved else ""
    if repaired.not_repairable:
        click.echo(
            f"{repaired.path} cannot be repaired, nothing was changed: no chunk can be blamed for "
            f"{repaired.not_repairable[0].path} ({repaired.not_repairable[0].problem}). "
            "Restore the store from a copy, or extract into a new folder."
        )
    elif any(finding.path == "manifest.json" and finding.severity == "error" for finding in lost):
        click.echo(f"{moved}Run the same kdpipe extract again to write the manifest anew, then verify --deep.")
    elif repaired.changed:
        chunks = ", ".join(str(chunk) for chunk in repaired.chunks[:20]) or "none"
        more = ", ..." if len(repaired.chunks) > 20 else ""
        click.echo(f"{moved}Run the same kdpipe extract again: only these chunks are computed: {chunks}{more}.")
    elif repaired.unfinished:
        click.echo(f"{repaired.path} is not finished, and not damaged. Run the same kdpipe extract again.")
    else:
        click.echo(f"{repaired.path} is whole; nothing was changed.")
    if repaired.more:
        click.echo("The check stopped before the end of the store: run this repair once more first.")


def _show_findings(findings: "tuple[Finding, ...]") -> None:
    for finding in findings[:_SHOWN]:
        click.echo(f"  {finding.severity:<9} {printable(f'{finding.path}: {finding.problem}')}")
    if len(findings) > _SHOWN:
        click.echo(f"  and {len(findings) - _SHOWN:,} more; --json lists them")


def _fields(result: "Report | Repair") -> dict[str, object]:
    from dataclasses import asdict

    return asdict(result)
