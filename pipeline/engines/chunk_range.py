"""``--chunks i/n``: the i-th of n equal runs of a store's chunks, for the tasks of an array job."""

import re

from ...stores.errors import UsageError
from ..ranks import nth_part


def parse_chunk_range(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers, i from 1 to n.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None:
        raise UsageError(f"--chunks is '{text}'. Write i/n, such as 3/16: the third of 16 equal ranges.")
    number, count = int(match[1]), int(match[2])
    if not 1 <= number <= count:
        raise UsageError(
            f"--chunks is {text}, and ranges are counted from 1 to {count}. "
            f"Number the tasks of an array job so: --array=1-{max(count, 1)}."
        )
    return number, count


def chunks_of(num_chunks: int, text: str | None) -> range:
    """The chunks that ``--chunks`` means; all without it. A range is empty where there are more ranges than chunks."""
    if text is None:
        return range(num_chunks)
    number, count = parse_chunk_range(text)
    return nth_part(range(num_chunks), number - 1, count)
