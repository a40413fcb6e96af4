"""The connection to a Ray cluster (extra ``ray``) that both stages share."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from ...stores import KdpipeError, UsageError
from ...stores.errors import missing_extra
from ..ranks import Ranks

_KNOCK_SECONDS = 10.0
# Ray's least, for a store that nothing is put into
_OBJECT_STORE_BYTES = 80_000_000


def check_ray() -> None:
    """Find out before anything is done whether this process can use Ray.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: this process was started by torchrun.
    """
    try:
        import ray  # noqa: F401  # seconds: only who asks for it waits
    except ImportError:
        raise missing_extra("ray", "--engine ray") from None
    if Ranks.from_environment().world_size > 1:
        raise UsageError("Ray starts its own processes: run --engine ray without torchrun.")


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """A connection: the one there is, else to ``RAY_ADDRESS``, else to a Ray of this machine's own, for this run.

    Raises:
        KdpipeError: nobody answers, or Ray cannot be started.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    address = os.environ.get("RAY_ADDRESS")
    own = {} if address else {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _knock(address)
        ray.init(address or "local", logging_level=logging.WARNING, **own)
    except (OSError, RuntimeError, ValueError) as error:
        what = f"There is no Ray cluster at RAY_ADDRESS={address}" if address else "Ray cannot be started here"
        raise KdpipeError(f"{what}: {first_line(error)}") from None
    if on_sigterm is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler aborts the process
    try:
        yield
    finally:
        ray.shutdown()


def first_line(error: BaseException) -> str:
    """What an exception of Ray says, in one line: the rest is advice, and traces of other machines."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray would try for minutes. ``auto`` is for Ray to find."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), _KNOCK_SECONDS).close()
