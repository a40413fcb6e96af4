"""Children to be killed: forked from a process that has torch and kdpipe loaded, so that 200 of them are cheap."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdpipe.cli.main import main as kdpipe_main


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    fault: str
    times: int
    outcome: str
    held: bool


class Child:
    """A forked process that runs a function and exits."""

    def __init__(self, function: Callable[[], object], output: Path | None = None) -> None:
        sys.stdout.flush()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function, output)

    @staticmethod
    def _run(function: Callable[[], object], output: Path | None) -> None:
        code = 70
        try:
            target = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs us in the background
            function()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code (minus the signal's number if one killed it), or None if it still runs after ``seconds``."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.001)
        return self.code

    def kill_after(self, seconds: float) -> bool:
        """Kill it if it still runs after so long; whether it was killed."""
        if self.wait(seconds) is not None:
            return False
        self.kill()
        return self.wait() == -signal.SIGKILL


def command(*arguments: object) -> Callable[[], None]:
    """``kdpipe ...`` as a function for a child."""

    def run() -> None:
        sys.argv = ["kdpipe", *(str(argument) for argument in arguments)]
        kdpipe_main()

    return run


def sentence(output: Path) -> str:
    """What a command printed, if it is one error without a traceback; else an AssertionError says what it was."""
    text = output.read_text()
    lines = [line for line in text.splitlines() if line.startswith("Error: ")]
    if len(lines) != 1 or "Traceback" in text:
        raise AssertionError(f"not one clear sentence: {text}")
    return lines[0]
