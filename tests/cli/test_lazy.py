"""The groups' tables of commands say what the commands say."""

import click
import pytest
from kdpipe.cli.lazy import LazyGroup
from kdpipe.cli.main import cli as root
from kdpipe.cli.store import store

from .conftest import Cli


@pytest.mark.parametrize("group", [root, store], ids=["kdpipe", "kdpipe store"])
def test_the_table_is_true(group: LazyGroup) -> None:
    context = click.Context(group)
    for name, (_, summary) in group.lazy.items():
        command = group.get_command(context, name)
        assert command is not None
        assert (command.name, command.get_short_help_str(limit=1000)) == (name, summary)


@pytest.mark.parametrize(("arguments", "meant"), [(["distil"], "distill"), (["store", "veriffy"], "verify")])
def test_a_mistyped_command_suggests(cli: Cli, arguments: list[str], meant: str) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert f"'{meant}'" in outcome.err
