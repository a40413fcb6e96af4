"""``folder:DIR``: one sub-folder for each class, its images inside, at any depth."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ...stores.errors import UsageError, unknown
from ..specs import Spec
from .images import decode_image
from .registry import data_source
from .samples import Samples

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})


class ImageFiles:
    """Raw inputs decoded from image files: PIL images, RGB (or one channel where the file has one).

    Args:
        root: the folder the paths are relative to.
        paths: image files, relative.
    """

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root = root
        self._paths = pa.array(paths, pa.string())  # one buffer: forked workers share it, unlike a list of str

    def __getitem__(self, position: int) -> Image.Image:
        path = self._root / self._paths[position].as_py()
        return decode_image(path, str(path))


@dataclass(frozen=True)
class FolderOptions:
    """Options of ``folder``.

    Attributes:
        classes: a text file with one class name a line, in the teacher's order; sub-folders are looked up in it.
            By default the sub-folders' names, sorted.
    """

    classes: str | None = None


@data_source("folder")
def folder(spec: Spec) -> Samples:
    """A folder of class folders. Sample ids are paths relative to it."""
    options = spec.into(FolderOptions)
    root = Path(spec.location).expanduser()
    if not spec.location or not root.is_dir():
        raise UsageError(f"'{spec.location}' is not a folder. Write folder:DIR with one sub-folder for each class.")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise UsageError(f"{root} has no sub-folders. folder:DIR needs one sub-folder for each class.")
    names = found if options.classes is None else read_class_names(Path(options.classes))
    numbers = {name: number for number, name in enumerate(names)}
    paths: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    for name in found:
        if name not in numbers:
            raise unknown(f"class folder in {root}", name, names[:50])
        images = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        paths += [image.relative_to(root).as_posix() for image in images]
        labels += [numbers[name]] * len(images)
        empty += [] if images else [name]
    if paths and empty:
        logger.warning("%s: no images in %s, which are classes all the same.", root, ", ".join(empty))
    if not paths:
        raise UsageError(f"{root} has class folders but no images in them ({', '.join(sorted(SUFFIXES))}).")
    return Samples(
        spec=str(spec),
        items=ImageFiles(root, paths),
        indices=np.arange(len(paths)),
        sample_ids=pa.array(paths, pa.string()),
        labels=np.array(labels, np.int64),
        class_names=tuple(names),
    )


def read_class_names(path: Path) -> list[str]:
    """The class names in a text file, one a line.

    Raises:
        UsageError: it cannot be read, or names a class twice.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"The class list {path} cannot be read ({error.strerror}).") from None
    if len(set(names)) != len(names):
        raise UsageError(f"The class list {path} names a class twice.")
    return names
