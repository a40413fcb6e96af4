"""The one tree of errors a user can cause or meet; each class is one exit code of the command line.

Every message says what is wrong, where, and what to do.
"""

from collections.abc import Iterable


class KdpipeError(Exception):
    """Something failed for a reason the user can understand and act on (exit code 1)."""

    exit_code = 1


class UsageError(KdpipeError, ValueError):
    """A spec, an option or an argument is wrong (exit code 2)."""

    exit_code = 2


class RefusedError(KdpipeError):
    """Going on would mean reading or writing something wrong (exit code 3)."""

    exit_code = 3


class MismatchError(RefusedError):
    """Two things that must describe the same data, classes or settings do not."""


class BusyError(RefusedError):
    """Another process is writing there."""


class CorruptStoreError(RefusedError):
    """A store's file is missing, truncated or altered."""


class MissingArrayError(RefusedError):
    """A store does not carry an array that is needed."""


class BadLogitsError(RefusedError):
    """A teacher's output cannot be stored: not finite, out of range or of the wrong shape."""


class BadSampleError(KdpipeError):
    """A sample of a data set cannot be read."""


class DivergedError(KdpipeError):
    """The loss of a training is no longer finite."""


class DeviceMemoryError(KdpipeError):
    """A device's memory does not hold a batch."""


class MissingExtraError(KdpipeError):
    """An optional dependency is not installed."""


def missing_extra(extra: str, purpose: str) -> MissingExtraError:
    """The error for something that needs an optional dependency."""
    return MissingExtraError(f"{purpose} needs the extra '{extra}': pip install 'kdpipe[{extra}]'.")


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name nobody knows: it lists the known names and suggests the nearest."""
    import difflib  # only errors wait for it

    names = sorted(known)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    if not near and name:
        near = [one for one in folded if one.startswith(name.lower())]
    hint = f" Did you mean '{folded[near[0]]}'?" if len(near) == 1 else ""
    return UsageError(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
