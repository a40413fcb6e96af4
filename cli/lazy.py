"""A click group whose commands are imported when they are used."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.exceptions import NoSuchCommand


class LazyCommand(NamedTuple):
    """Where a command is, and its summary.

    Attributes:
        where: ``module:attribute``, the module in this package.
        summary: the first sentence of the command's help, which the help of the group needs.
    """

    where: str
    summary: str


class LazyGroup(click.Group):
    """A group that lists its commands, in the order given, without importing them: its help is there at once."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's interface)
        """The names, as the help and the completion of shells list them."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's interface)
        """Import a command; None where there is none of that name."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name].where.partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was asked for, or say which was meant."""
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:  # knows no command to suggest
            raise NoSuchCommand(error.command_name, possibilities=self.lazy, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's interface)
        """Write the help's section of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in self.lazy.items()])
