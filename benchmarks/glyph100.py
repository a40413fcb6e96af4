"""glyph100: 100 characters in some hundreds of fonts, 32x32 grey, rendered from free Debian font packages.

It is rendered type, not photographs, and easier than CIFAR-100, whose long-tailed protocol it follows: the classes in a
seeded order, the number of training fonts falling exponentially. The test set holds other font families than the
training set, and is balanced. Families are told apart by file name, so relatives under other names may be on both sides.

Usage: python benchmarks/glyph100.py FILE.npz     (downloads 22 MB with apt-get; needs pillow and fonttools)

    --data python:glyph100:load,file=FILE.npz,part=train,imbalance=100,max_per_class=100
    --val python:glyph100:load,file=FILE.npz,part=val
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PACKAGES = (Path(__file__).parent / "glyph100-fonts.txt").read_text().split()
CHARACTERS = "".join(map(chr, range(33, 127))) + "ßéçñøÆ"
SIDE, FONT_SIZE, BASELINE = 32, 22, 23
# a character so faint is blank, and a font of so few different pictures shows boxes
FAINTEST, FEWEST_DIFFERENT = 48, 60
HELD_OUT_FONTS = 100


@dataclass
class Glyphs:
    """A map-style data set: images uint8 (1, 32, 32), labels, and the sample ids FONT/CHARACTER."""

    images: np.ndarray
    labels: np.ndarray
    sample_ids: list[str]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        return self.images[position], int(self.labels[position])


def load(file: str, part: str = "train", seed: int = 0) -> Glyphs:
    """One part of the data: the fonts of a family are all in one part.

    Args:
        file: what :func:`build` has written.
        part: train, val or test; each of the last two holds families with at least a hundred fonts together.
        seed: of the split, and of the order of the classes: with ``imbalance`` the first class is the largest.
    """
    stored = np.load(file)
    images, family = stored["X"], stored["family"]
    random = np.random.default_rng(seed)
    parts, remaining = {}, list(random.permutation(np.unique(family)))
    for name in ("test", "val"):
        chosen = np.zeros(len(family), bool)
        while chosen.sum() < HELD_OUT_FONTS:
            chosen |= family == remaining.pop()
        parts[name] = np.flatnonzero(chosen)
    parts["train"] = np.flatnonzero(np.isin(family, remaining))
    order = random.permutation(len(CHARACTERS))
    fonts = parts[part]
    return Glyphs(
        images=images[fonts][:, order].reshape(-1, 1, SIDE, SIDE),
        labels=np.tile(np.arange(len(order)), len(fonts)),
        sample_ids=[f"{font:04}/{ord(CHARACTERS[k]):04x}" for font in fonts for k in order],
        classes=[f"U+{ord(CHARACTERS[k]):04X}" for k in order],
    )


def build(file: Path) -> None:
    """Download the fonts, render the characters of those that have all, and write X, family and chars."""
    with tempfile.TemporaryDirectory(prefix="glyph100-") as folder:
        subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for package in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, Path(folder) / "fonts"], check=True)
        drawn = dict(_fonts(Path(folder) / "fonts"))
    families = [Path(name).stem.lower().split("-")[0].split("_")[0].split(".")[0] for name in drawn]
    np.savez_compressed(file, X=np.stack(list(drawn.values())), family=families, chars=np.array(list(CHARACTERS)))
    print(f"{len(drawn)} fonts of {len(set(families))} families: {100 * len(drawn):,} images in {file}")


def _fonts(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Path and pictures (100, 32, 32) of every font that has all the characters."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".ttf", ".otf") and not path.is_symlink() and (drawn := _draw(path)) is not None:
            yield str(path.relative_to(folder)), drawn


def _draw(path: Path) -> np.ndarray | None:
    from fontTools.ttLib import TTFont, TTLibError  # pyright: ignore[reportMissingImports]
    from PIL import Image, ImageDraw, ImageFont

    try:
        known = TTFont(path, lazy=True).getBestCmap() or {}
    except TTLibError:
        return None
    if not all(ord(character) in known for character in CHARACTERS):
        return None
    font = ImageFont.truetype(str(path), FONT_SIZE)
    pictures = []
    for character in CHARACTERS:
        picture = Image.new("L", (SIDE, SIDE))
        left, _, right, _ = font.getbbox(character, anchor="ls")
        ImageDraw.Draw(picture).text(((SIDE - left - right) / 2, BASELINE), character, 255, font, anchor="ls")
        pictures.append(np.asarray(picture))
    drawn = np.stack(pictures)
    is_blank = drawn.max((1, 2)).min() < FAINTEST
    return None if is_blank or len(np.unique(drawn.reshape(len(drawn), -1), axis=0)) < FEWEST_DIFFERENT else drawn


if __name__ == "__main__":
    build(Path(sys.argv[1]))
