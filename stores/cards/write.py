"""Writing the card of a store: into its own folder, where it travels with it, or into another."""

import json
from pathlib import Path
from typing import Any

from ..errors import RefusedError
from ..files import write_file
from ..layout import CARD, CROISSANT
from ..reader import Store
from .card import card, store_of_card
from .croissant import CONFORMS_TO, croissant


def write_card(store: Store, out: Path) -> dict[str, Any]:
    """Write README.md and croissant.json; an older card there gives way, whatever else has such a name does not.

    Args:
        store: also an unfinished one.
        out: the folder; it is made where it is missing.

    Returns:
        The Croissant metadata.

    Raises:
        RefusedError: a file of such a name is there that is no card; nothing was changed.
        CorruptStoreError: the class table is not what was written.
    """
    metadata = croissant(store)
    page = card(store)
    for name, is_ours in ((CARD, _is_card), (CROISSANT, _is_croissant)):
        if (out / name).exists() and not is_ours(out / name):
            raise RefusedError(f"{out / name} was not written by kdpipe store card. Give another folder with --out.")
    write_file(out, CARD, page.encode())
    write_file(out, CROISSANT, (json.dumps(metadata, indent=2) + "\n").encode())
    return metadata


def _is_card(path: Path) -> bool:
    return path.is_file() and store_of_card(path.read_text(errors="replace")) is not None


def _is_croissant(path: Path) -> bool:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(body, dict) and body.get("conformsTo") == CONFORMS_TO
