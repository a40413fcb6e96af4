import json
from pathlib import Path

import pytest

from .conftest import Cli

PLAN = ("plan", "--data", "digits,split=test", "--teacher", "python:my_teachers:teacher", "--pilot", 60)


def test_a_plan_is_two_tables(cli: Cli, workplace: Path) -> None:
    done = cli(*PLAN, "--codecs", "float16,topk:3,temperatures=1,4,int8+zstd")
    assert done.code == 0, done.err
    for text in ("hours", "KL T=4", "tail kept", "topk:3,temperatures=1,4", "int8+zstd", "MB/s", "samples/s"):
        assert text in done.out
    assert not list(workplace.glob(".kdpipe*"))


def test_a_plan_is_json(cli: Cli) -> None:
    done = cli(
        *PLAN, "--codecs", "float16,topk:3", "--views", "1,2", "--augment", "crop-flip,size=8,padding=1", "--json"
    )
    plan = json.loads(done.out)
    assert [(cost["codec"], cost["views"]) for cost in plan["costs"]] == [
        ("float16", 1), ("float16", 2), ("topk:3,temperatures=1,4", 1), ("topk:3,temperatures=1,4", 2),
    ]  # fmt: skip
    assert plan["pilot"]["samples"] == plan["fidelity"][0]["samples"] == 60
    assert plan["costs"][0]["bytes"] == sum(plan["costs"][0]["parts"].values())
    assert set(plan["fidelity"][1]["kl"]) == {"1", "4"}


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--codecs", "topk:99"), 2, "more classes than the 10"),
        (("--codecs", "flota16"), 2, "float16"),
        (("--views", "1,x"), 2, "whole numbers"),
        (("--views", "8"), 2, "--augment"),
        (("--out", "my_teachers.py/x.kd"), 0, ""),
    ],
)
def test_bad_plans(cli: Cli, flags: tuple[str, ...], code: int, message: str) -> None:
    done = cli(*PLAN, *flags)
    assert done.code == code
    assert message in done.err
