"""``kdpipe``: the command group, and how errors become exit codes.

Command modules import the pipeline only when they run, so that ``kdpipe --help`` loads neither torch nor zarr.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from ..stores.errors import KdpipeError
from .demo import demo
from .distill import distill
from .extract import extract
from .plan import plan
from .report import report
from .store import store
from .sweep import sweep

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


cli.add_command(extract)
cli.add_command(plan)
cli.add_command(distill)
cli.add_command(sweep)
cli.add_command(report)
cli.add_command(demo)
cli.add_command(store)


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
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)
