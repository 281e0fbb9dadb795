"""A fast way for plain JPEG files: Pillow's decoder without Pillow's reading of the whole header.

The pixels are the same; a 32-px image takes half the time. Whatever is not plain is left to ``Image.open``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

START_OF_FRAME = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
EXIF, ADOBE = 0xE1, 0xEE


def jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, channels) of a plain 8-bit JPEG, grey or YCbCr; None for anything else.

    Files with EXIF (they may have to be turned) or Adobe's segment (they may be CMYK or RGB) are not plain.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (EXIF, ADOBE):
            return None
        if marker in START_OF_FRAME:
            precision, height, width = data[at + 4], *_two_words(data, at + 5)
            channels = data[at + 9]
            plain = precision == 8 and height and width and channels in (1, 3)
            return (height, width, channels) if plain else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _two_words(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")


def decode_plain_jpeg(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    """uint8 (H, W, C); None when the file is not plain, too large or broken, so that Pillow can say what it is."""
    shape = jpeg_shape(data)
    if shape is None or shape[0] * shape[1] > max_pixels:
        return None
    height, width, channels = shape
    mode = "RGB" if channels == 3 else "L"
    try:
        image = Image.frombytes(mode, (width, height), data, "jpeg", (mode, ""))
    except (ValueError, OSError):
        return None
    return np.asarray(image).reshape(shape)
