"""Processes as torchrun starts them, forked from one that has torch loaded, so that they begin at once."""

import multiprocessing
import multiprocessing.connection
import os
import socket
from collections.abc import Callable
from typing import Any

_SECONDS = 120


def run_ranks(count: int, function: Callable[..., object], *arguments: Any) -> list[int | None]:
    """Call a function of an importable module in every one of ``count`` ranks; gives their exit codes.

    As under torchrun, one that fails ends the others.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdpipe.pipeline"])
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    environments = [{**common, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1} for rank in range(count)]
    folder = os.getcwd()  # noqa: PTH109
    ranks = [context.Process(target=_call, args=(e, folder, function, arguments)) for e in environments]
    for rank in ranks:
        rank.start()
    running = list(ranks)
    while running:
        if not multiprocessing.connection.wait([rank.sentinel for rank in running], _SECONDS):
            break
        running = [rank for rank in running if rank.is_alive()]
        if any(rank.exitcode for rank in ranks):
            break
    for rank in running:
        rank.terminate()
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


def _call(
    environment: dict[str, object], folder: str, function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.chdir(folder)
    function(*arguments)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
