"""``--actors MIN..MAX``: how many actors a pool may have."""

import re

from ...stores.errors import UsageError


def parse_actors(text: str | None, available: int) -> tuple[int, int]:
    """The least and the most actors.

    Args:
        text: ``MIN..MAX`` or one number for both; None for one to all that the cluster has room for.
        available: how many it has room for now.

    Raises:
        UsageError: it is not of that form.
    """
    if text is None:
        return 1, max(available, 1)
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise UsageError(f"--actors is '{text}'. Write MIN..MAX, such as 1..8, or one number.")
    return least, most
