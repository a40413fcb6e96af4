"""What several commands share: ``--config``, ``--json``, and running with a progress bar."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..stores.errors import UsageError, unknown
from ..stores.remote.location import Location, is_url


def read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take the defaults of a command's flags from a TOML file, or from the ``config.json`` of a run; flags win.

    Raises:
        UsageError: the file cannot be read, or has a key that is no flag.
    """
    if path is None:
        return
    import json
    import tomllib

    try:
        text = path.read_text(encoding="utf-8-sig")  # which some editors write
        settings: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"The configuration {path} cannot be read: {error}.") from None
    if not isinstance(settings, dict):
        raise UsageError(f"The configuration {path} holds no object. Give the config.json of a run, or a TOML file.")
    if "search" in settings and context.command.name != "sweep":
        raise UsageError(
            f"{path} is the configuration of a sweep. Give it to kdpipe sweep; each run of a sweep has one of its own: "
            "runs/0000/config.json."
        )
    settings.pop("resolved", None)  # what a run decided by itself, for the record
    context.default_map = {**(context.default_map or {}), **_as_defaults(context, settings, str(path))}


def read_recipe(context: click.Context, _: click.Parameter, name: str | None) -> None:
    """Take the defaults of a command's flags from a recipe; flags and ``--config`` win.

    NAME gives the part that is named like the command (a sweep's is that of distill), NAME/teacher the flags that
    train the teacher.

    Raises:
        UsageError: no such recipe or part.
    """
    if name is None:
        return
    if name.endswith(".toml"):
        raise UsageError(f"--recipe takes the name of a recipe (docs/recipes.md). Give a file as --config {name}.")
    from ..pipeline.recipes import PARTS, load_recipe

    recipe, *part = name.split("/", 1)
    is_sweep = context.command.name == "sweep"
    wanted = part[0] if part else "distill" if is_sweep else str(context.command.name)
    if wanted not in PARTS:
        raise unknown("part of a recipe", wanted, PARTS)
    command = "distill" if wanted == "teacher" else wanted
    if command != ("distill" if is_sweep else context.command.name):
        raise UsageError(f"The part '{wanted}' of a recipe is for kdpipe {command}.")
    settings = load_recipe(recipe).parts[wanted]
    if is_sweep and "loss" in settings:  # distill sums its losses, a sweep compares them
        settings = {**settings, "loss": [" + ".join(settings["loss"])]}
    defaults = _as_defaults(context, settings, f"the recipe {name}")
    context.default_map = {**defaults, **(context.default_map or {})}


def _as_defaults(context: click.Context, settings: dict[str, Any], where: str) -> dict[str, Any]:
    options = [p for p in context.command.params if isinstance(p, click.Option) and p.name not in ("config", "recipe")]
    flags = {name.lstrip("-").replace("-", "_"): option for option in options for name in option.opts}
    defaults = {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name not in flags:
            raise unknown(f"key in {where}", key, (str(flag).replace("_", "-") for flag in flags))
        if value is not None:
            defaults[str(flags[name].name)] = typed = _as_typed(flags[name], value)
            _check(context, flags[name], typed, f"'{key}' in {where}")
    return defaults


def _as_typed(option: click.Option, value: Any) -> Any:
    """A value as it would be typed, so that it is checked as strictly as on the command line."""
    if option.multiple:
        return value if isinstance(value, list) else [value]
    if option.is_flag:
        return value
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _check(context: click.Context, option: click.Option, typed: Any, what: str) -> None:
    """Refuse a value that the flag would refuse, which must not be blamed on a flag that nobody typed."""
    try:
        value = option.type_cast_value(context, typed)
        if option.callback is not None:
            option.callback(context, option, value)
    except click.BadParameter as error:
        raise UsageError(f"{what}: {error.message}") from None


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=read_config,
    is_eager=True,
    expose_value=False,
    help="TOML file (or a run's config.json) with these flags as keys; flags win.",
)

recipe_option = click.option(
    "--recipe",
    metavar="NAME",
    callback=read_recipe,
    is_eager=True,
    expose_value=False,
    help="A published protocol's flags (docs/recipes.md); flags and --config win.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def only_one(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str:
    """The value of an option that another command takes several times."""
    value, *others = values
    if others:
        message = f"it is given {len(values)} times. Give one; to compare: kdpipe sweep."
        raise click.BadParameter(message, param=parameter)
    return value


def auto_int(_: click.Context, parameter: click.Parameter, value: str | int | None) -> int | None:
    """``auto`` (None) or a whole number."""
    if value is None or value == "auto":
        return None
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"'{value}' is neither auto nor a whole number.", param=parameter) from None


def comma_list(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """``a,b`` as ("a", "b")."""
    return tuple(part for part in (value or "").split(",") if part)


def comma_ints(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """``1,2`` as (1, 2)."""
    try:
        return tuple(int(part) for part in comma_list(context, parameter, value))
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a list of whole numbers.", param=parameter) from None


def printable(text: str) -> str:
    """A text on one line: what a stranger's store says cannot move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def size_text(count: float) -> str:
    """A number of bytes with three digits or a decimal: ``512 B``, ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} PB"


class StorePath(click.Path):
    """A STORE: a path, or an address such as ``s3://BUCKET/PATH``, which stays a text."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Only a path becomes a path: that would spoil the ``//`` of an address."""
        return value if is_url(value) else super().convert(value, param, ctx)


class LocalPath(click.Path):
    """A path of this machine, where an address would become a folder of a strange name.

    Args:
        advice: what to do with an address instead.
    """

    def __init__(self, advice: str = "") -> None:
        super().__init__(path_type=Path)
        self._advice = advice

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an address with what to do instead."""
        if is_url(value):
            text = f"{Location.parse(value)} is an address, and this takes a path of this machine. {self._advice}"
            raise UsageError(text.rstrip())
        return super().convert(value, param, ctx)


class NewStorePath(LocalPath):
    """A STORE to be written: a folder, which can then be pushed."""

    def __init__(self) -> None:
        super().__init__("Write the store to a folder, then push it: kdpipe store push STORE URL.")


class ProgressBar:
    """A bar with count, speed and time left; on stderr, only on a terminal and only in the first process."""

    def __init__(self, unit: str, *, of_bytes: bool = False) -> None:
        import os
        import sys

        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if of_bytes else MofNCompleteColumn(),
            TransferSpeedColumn() if of_bytes else TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0",
        )
        self._task = self._progress.add_task(unit, total=None, speed="")

    def __enter__(self) -> Callable[..., None]:
        self._progress.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _update(self, *, done: int, total: int, speed: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, speed=speed)
