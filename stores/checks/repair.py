"""Repairing a store: what is damaged is moved aside, so that the same extraction computes it again and nothing else.

Nothing is deleted. The receipts of damaged chunks go first, then the manifest says "writing", then the files go: a kill
at any instant leaves a store that verify does not call whole, and that no extraction finishes with a damaged chunk.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from .. import manifest as manifests
from ..claims import living_claims
from ..errors import RefusedError
from ..files import sync, write_file
from ..layout import MANIFEST, QUARANTINE, receipt_file, samples_file
from ..manifest import Manifest
from ..payload.layout import payload_layout, payload_store_id
from .report import Finding
from .verify import verify


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What a repair did.

    Attributes:
        path: the store.
        store_id: of the store, as far as it can be known.
        changed: whether anything was moved, or the manifest now says that the store is unfinished.
        unfinished: whether chunks are missing that no repair can bring back, only the extraction.
        quarantine: where the damaged files are now, relative to the store.
        moved: the files that were moved there, by their paths in the store.
        chunks: the chunks that the extraction is to compute again because of this repair.
        not_repairable: findings that no chunk can be blamed for; where there are any, nothing was changed.
        more: whether the verification stopped before the end, so that there may be more to repair.
        findings: all that the deep verification before the repair found.
    """

    path: str
    store_id: str | None
    changed: bool = False
    unfinished: bool = False
    quarantine: str | None = None
    moved: tuple[str, ...] = ()
    chunks: tuple[int, ...] = ()
    not_repairable: tuple[Finding, ...] = ()
    more: bool = False
    findings: tuple[Finding, ...] = ()


def repair(path: str | os.PathLike[str], *, on_progress: Callable[[int, int], None] = lambda *_: None) -> Repair:
    """Verify a store deeply and move what is damaged into its folder ``quarantine``.

    Args:
        path: the folder of the store.
        on_progress: as of :func:`kdpipe.stores.checks.verify.verify`.

    Raises:
        CorruptStoreError: there is no folder of that name, or it has nothing of a store.
        RefusedError: an extraction is writing it at this moment, or it is of a newer format version.
    """
    root = Path(path)
    if claims := living_claims(root):
        raise RefusedError(f"{root} is being written by {claims[0]}. Wait for it, or stop it, then repair.")
    report = verify(root, deep=True, on_progress=on_progress)
    not_repairable = tuple(finding for finding in report.errors if not _is_repairable(finding, root))
    found = Repair(
        path=str(root),
        store_id=report.store_id,
        unfinished=report.state != "complete",
        not_repairable=not_repairable,
        more=report.stopped,
        findings=report.findings,
    )
    damaged = [finding for finding in report.errors if finding.check != "unfinished"]
    if not damaged or not_repairable:
        return found
    return _set_aside(root, found, damaged)


def _set_aside(root: Path, found: Repair, damaged: list[Finding]) -> Repair:
    quarantine = _new_quarantine(root)
    chunks = sorted({finding.chunk for finding in damaged if finding.chunk is not None})
    files = sorted({finding.path for finding in damaged if finding.chunk is None and finding.path != MANIFEST})
    marked, moved = False, []
    if any(finding.path == MANIFEST for finding in damaged):
        # nothing else can be known, or moved, without it; the next extraction writes it again
        chunks, files = [], [MANIFEST]
    else:
        manifest = Manifest.read(root)
        # all receipts before the manifest opens the store again: no extraction can count a damaged chunk as whole
        moved += [name for name in map(receipt_file, chunks) if _move(root, name, quarantine)]
        marked = _mark_unfinished(root, manifest, quarantine)
        files += [name for chunk in chunks for name in _chunk_files(manifest, chunk)]
    moved += [name for name in files if _move(root, name, quarantine)]
    return replace(
        found,
        changed=marked or bool(moved),
        unfinished=True,
        quarantine=quarantine.relative_to(root).as_posix() if marked or moved else None,
        moved=tuple(moved),
        chunks=tuple(chunks),
    )


def _is_repairable(finding: Finding, root: Path) -> bool:
    """Whether writing one chunk, or a file that belongs to none, again mends this."""
    if finding.check == "unfinished" or finding.chunk is not None:
        return True
    if finding.path == MANIFEST:
        # by the id in the payload's metadata an extraction knows a store without a manifest for its own
        return finding.check in ("manifest", "missing") and payload_store_id(root) is not None
    return True


def _mark_unfinished(root: Path, manifest: Manifest, quarantine: Path) -> bool:
    """Let the manifest say "writing"; the finished one is kept beside the damaged files."""
    if manifest.state == "writing":
        return False
    write_file(quarantine, MANIFEST, (root / MANIFEST).read_bytes())
    manifests.replace(manifest, state="writing", finished=None, accuracy=None, receipts=None).write(root)
    return True


def _chunk_files(manifest: Manifest, chunk: int) -> Iterator[str]:
    grid = manifest.grid
    yield from payload_layout(manifest).chunk_sizes(chunk)
    if grid.view(chunk) == 0:
        yield samples_file(grid.block(chunk))


def _move(root: Path, name: str, quarantine: Path) -> bool:
    """Move a file, or whatever lies in its place, to the same path in the quarantine; False if nothing is there."""
    source, target = root / name, quarantine / name
    if not os.path.lexists(source):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    for folder in (target.parent, source.parent):
        sync(folder)
    return True


def _new_quarantine(root: Path) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (now if not number else f"{now}-{number}" for number in range(1000))
    return next(root / QUARANTINE / name for name in names if not (root / QUARANTINE / name).exists())
