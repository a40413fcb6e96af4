"""Ranges and engines on the command line: what a range says when it is done, and clear errors."""

import json

import pytest

from .conftest import Cli

EXTRACT = ("extract", "--data", "digits,split=train", "--teacher", "python:my_teachers:teacher", "--chunk-rows", 300)


def test_the_last_range_finishes_the_store(cli: Cli) -> None:
    first = cli(*EXTRACT, "--out", "d.kd", "--chunks", "2/2", "--json")
    assert (first.code, json.loads(first.out)["state"]) == (0, "writing")
    assert "The range 2/2 is made" in first.err
    refused = cli("distill", "--store", "d.kd", "--student", "kdpipe:convnet_tiny", "--loss", "kd", "--out", "run")
    assert (refused.code, "not finished" in refused.err) == (3, True)
    last = cli(*EXTRACT, "--out", "d.kd", "--chunks", "1/2", "--json")
    assert (last.code, json.loads(last.out)["state"]) == (0, "complete")
    assert "is made" not in last.err
    again = cli(*EXTRACT, "--out", "d.kd", "--chunks", "1/2")
    assert "finished already" in again.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--chunks", "3/2"), "--array=1-2"),
        (("--chunks", "0/2"), "counted from 1"),
        (("--chunks", "half"), "Write i/n"),
        (("--chunks", "1/2", "--engine", "ray"), "Leave out --chunks"),
        (("--actors", "2"), "Give --engine ray"),
        (("--engine", "ray", "--actors", "4..2"), "MIN..MAX"),
        (("--engine", "spark"), "'spark' is not one of"),
    ],
)
def test_what_cannot_be_asked_for(cli: Cli, flags: tuple[str, ...], said: str) -> None:
    outcome = cli(*EXTRACT, "--out", "d.kd", *flags)
    assert outcome.code == 2
    assert said in outcome.err


def test_only_the_first_rank_speaks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli(*EXTRACT, "--out", "d.kd", "--chunks", "1/2")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    outcome = cli(*EXTRACT, "--out", "d.kd")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
