"""How results are shown: tables for people, JSON for programs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ..stores.layout import RECEIPTS, Grid
from ..stores.manifest import Accuracy, Manifest, Parent, TeacherInfo
from .options import printable, size_text


def show_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def show_manifest(path: Path | str, manifest: Manifest, *, as_json: bool) -> None:
    """A store, by its manifest."""
    if as_json:
        show_json(msgspec.json.decode(manifest.to_json()))
        return
    arrays = [
        f"{a.name} {a.dtype} ({manifest.num_views}, {manifest.num_samples:,}, {a.width:,})" for a in manifest.arrays
    ]
    uncompressed = ", uncompressed" if manifest.logit_codec.compressed else ""
    rows = [
        ("state", manifest.state),
        ("store id", manifest.store_id),
        ("samples x classes", f"{manifest.num_samples:,} x {manifest.num_classes:,}, {manifest.num_views} view(s)"),
        ("codec", manifest.codec),
        *(("array" if i == 0 else "", text) for i, text in enumerate(arrays)),
        ("chunks", _chunks(manifest.grid) + _how_many_done(path, manifest)),
        ("row order", manifest.order),
        ("payload", f"{size_text(manifest.payload_bytes)}{uncompressed}"),
        ("format", None if manifest.payload_format == "zarr" else manifest.payload_format),
        ("data", manifest.dataset.spec),
        ("left out", _left_out(manifest.dataset.unreadable)),
        ("long tail", _pairs(manifest.dataset.long_tail)),
        ("teacher", _teacher(manifest.teacher)),
        ("preprocessing", _pairs(manifest.preprocessing)),
        ("augmentation", _pairs(manifest.augmentation)),
        ("class groups", manifest.group_rule),
        ("teacher accuracy", accuracy_line(manifest.accuracy)),
        ("precision, device", f"{manifest.precision}, {manifest.device}"),
        ("made", f"{manifest.created} by kdpipe {manifest.kdpipe_version}"),
        ("owner", manifest.owner),
        ("licence", manifest.licence),
        ("note", manifest.note),
        *(("made from" if i == 0 else "", text) for i, text in enumerate(_ancestors(manifest.parents))),
    ]
    _show_rows(str(path), rows)


def show_summary(path: Path, summary: dict[str, Any], *, as_json: bool) -> None:
    """A finished run, by its summary."""
    if as_json:
        show_json(summary)
        return
    accuracy = summary["val"]
    rows = [
        ("student", f"{summary['student']} ({summary['num_parameters']:,} parameters)"),
        ("loss", " + ".join(summary["loss"])),
        ("validation", accuracy_line(msgspec.convert(accuracy, Accuracy) if accuracy else None)),
        ("time", f"{summary['seconds']:,.0f} s, {summary['images_per_second']:,.0f} images/s in the last epoch"),
        ("store id", summary["store_id"]),
        ("weights", str(path / "student.safetensors")),
    ]
    _show_rows(str(path), rows)


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns that are not empty, under their names."""
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = [[printable(line[place]) for place in kept] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """One line about an epoch."""
    parts = [f"epoch {record['epoch'] + 1}/{epochs}", f"loss {record['loss']:.4f}"]
    names = ("overall", "head", "medium", "tail")
    parts += [f"{name} {100 * record[key]:.1f}" for name in names if record.get(key := f"val_{name}") is not None]
    return "  ".join(parts)


def accuracy_line(accuracy: Accuracy | None) -> str | None:
    """Accuracies in percent."""
    if accuracy is None:
        return None
    names = ("overall", "balanced", "head", "medium", "tail")
    values = [(name, getattr(accuracy, name)) for name in names]
    return "  ".join(f"{name} {100 * value:.2f} %" for name, value in values if value is not None)


def _show_rows(title: str, rows: list[tuple[str, str | None]]) -> None:
    width = max(len(name) for name, _ in rows)
    click.echo(printable(title))
    for name, value in rows:
        if value:
            click.echo(f"  {name:<{width}}  {printable(value)}")


def _teacher(teacher: TeacherInfo) -> str:
    """Its spec and size; of an imported store's nobody knows the size."""
    return f"{teacher.spec} ({teacher.num_parameters:,} parameters)" if teacher.num_parameters else teacher.spec


def _chunks(grid: Grid) -> str:
    return f"{grid.num_chunks:,} of {grid.chunk_rows:,} rows"


def _how_many_done(path: Path | str, manifest: Manifest) -> str:
    if manifest.state == "complete":
        return ""
    return f", {sum(1 for _ in Path(path, RECEIPTS).glob('*.json')):,} of them written"


def _left_out(unreadable: int) -> str | None:
    return f"{unreadable:,} samples that could not be read" if unreadable else None


def _ancestors(parents: Sequence[Parent], depth: int = 0) -> Iterator[str]:
    """The stores that a store was made from, each before its own."""
    for parent in parents:
        yield f"{'  ' * depth}{parent.store_id}, {parent.change}"
        yield from _ancestors(parent.parents, depth + 1)


def _pairs(values: dict[str, Any] | None) -> str | None:
    if not values:
        return None
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
