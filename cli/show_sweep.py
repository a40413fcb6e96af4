"""How a sweep is shown: a line for each trial that ends, and the leaderboard."""

from dataclasses import asdict

import click

from ..pipeline.sweep import Row, Standing, SweepConfig, SweepResult
from ..stores.errors import KdpipeError
from .show import show_json, show_table

_METRICS = ("overall", "balanced", "head", "medium", "tail")


def row_line(row: Row, metric: str) -> str:
    """One line about a trial that ended."""
    value = getattr(row, metric)
    what = row.error or (f"{metric} {100 * value:.2f} %" if value is not None else "")
    parts = (f"trial {row.id}", row.state, row.student, row.loss, _settings(row.settings), f"seed {row.seed}", what)
    return "  ".join(part for part in parts if part)


def show_sweep(config: SweepConfig, result: SweepResult, *, as_json: bool) -> None:
    """The leaderboard of a finished sweep.

    Raises:
        KdpipeError: no trial was done.
    """
    out, lost = config.base.out, [row for row in result.rows if row.state in ("failed", "diverged")]
    if not result.leaderboard:
        raise KdpipeError(f"No trial of {out} was done: {lost[0].error}" if lost else f"{out} has no trials.")
    if as_json:
        show_json(
            {
                "metric": config.metric,
                "leaderboard": [asdict(standing) for standing in result.leaderboard],
                "best": str(result.best),
                "trials": str(out / "trials.parquet"),
                "lost": {row.id: row.error for row in lost},
            }
        )
        return
    seeds = max(standing.seeds for standing in result.leaderboard)
    click.echo(
        f"{out}, by {config.metric} accuracy in percent"
        + (f" (mean and standard deviation of up to {seeds} seeds)" if seeds > 1 else "")
    )
    head = ("", "student", "loss", "settings", "seeds", *_METRICS, "parameters", "seconds", "best")
    show_table(head, [_line(rank, standing) for rank, standing in enumerate(result.leaderboard, 1)])
    click.echo(f"best student: {result.best}")
    for row in lost:
        click.echo(row_line(row, config.metric), err=True)


def _line(rank: int, standing: Standing) -> list[str]:
    return [
        str(rank), standing.student, standing.loss, _settings(standing.settings), str(standing.seeds),
        *(_cell(standing.mean[name], standing.spread[name]) for name in _METRICS),
        f"{standing.parameters:,}", f"{standing.seconds:,.1f}", standing.best,
    ]  # fmt: skip


def _cell(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return ""
    return f"{100 * mean:.2f}" + ("" if spread is None else f" +- {100 * spread:.2f}")


def _settings(settings: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())
