"""The parts of the docs that scripts write: each stands between two marks, of which the first names its script."""

import sys
from pathlib import Path

END = "<!-- until here -->"


def write_part(page: Path, script: str, text: str) -> None:
    """Put a text in the place of the one between ``<!-- written by SCRIPT -->`` and the next ``<!-- until here -->``."""
    head, begin, rest = page.read_text().partition(f"<!-- written by {script} -->\n")
    _, end, tail = rest.partition(END)
    if not end:
        sys.exit(f"{page} has no lines '<!-- written by {script} -->' and '{END}': nothing was written.")
    page.write_text(f"{head}{begin}\n{text.strip()}\n\n{end}{tail}")
