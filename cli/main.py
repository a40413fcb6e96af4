"""``kdpipe``: the command group, and how errors become exit codes.

Command modules are imported when they are used, and import the pipeline when they run: ``kdpipe --help`` loads click.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from ..stores.errors import KdpipeError
from .lazy import LazyCommand, LazyGroup

INTERRUPTED = 130
COMMANDS = {
    "extract": LazyCommand(
        "extract:extract", "Run a teacher once over a data set and write its logits and ranks to a store."
    ),
    "plan": LazyCommand(
        "plan:plan", "Say what an extraction will cost and change, from a pilot, before it is paid for."
    ),
    "distill": LazyCommand("distill:distill", "Train a student from a store; the teacher is never loaded."),
    "sweep": LazyCommand("sweep:sweep", "Train many students from one store, and rank them."),
    "report": LazyCommand(
        "report:report",
        "Say how biased a teacher is, what a run gained, or what a sweep found: one HTML page that loads nothing.",
    ),
    "store": LazyCommand(
        "store:store",
        "Look after stores; share them (ls, pull, push); make others of them (merge, subset, regroup, map-classes).",
    ),
    "demo": LazyCommand("demo:demo", "The whole story on embedded data, in about a minute."),
}


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="kdpipe", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def cli(*, verbose: bool) -> None:
    """Run the teacher once. Train every student from the store.

    \b
    kdpipe extract --data digits,split=train --teacher kdpipe:resnet8x4,weights=FILE --out digits.kd
    kdpipe distill --store digits.kd --student kdpipe:convnet_tiny --loss ltkd --out run
    """
    import logging

    level = logging.INFO if verbose else logging.WARNING
    if os.environ.get("RANK", "0") != "0":  # under torchrun, what all would say is said once
        level = logging.ERROR
    logging.basicConfig(level=level, format="kdpipe: %(message)s", stream=sys.stderr)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 refused, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(standalone_mode=False, prog_name="kdpipe")
        sys.exit(code if isinstance(code, int) else 0)
    except KdpipeError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("Interrupted. What is finished is kept: run the same command again to go on.", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{place}. What is finished is kept: mend this and run the command again.", 1)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    from .options import printable  # here: the help needs no part of the stores

    click.echo("\n".join(map(printable, f"Error: {message}".splitlines())), err=True)
    sys.exit(code)
