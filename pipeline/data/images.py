"""Decoding image files, from disk or from memory."""

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from ...stores.errors import BadSampleError


def decode_image(source: Path | IO[bytes], name: str) -> Image.Image:
    """The image: RGB, or one channel where the file has one.

    Args:
        source: the file.
        name: what to call the sample.

    Raises:
        BadSampleError: it is no image, is damaged, or has pixels without a fixed range.
    """
    try:
        with Image.open(source) as image:
            return _eight_bits(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"{name} cannot be read as an image ({error}). Mend or remove it.") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # 16 bits: Pillow's convert would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its {image.mode} pixels of 32 bits have no fixed range")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
