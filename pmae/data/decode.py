"""Decode image files to uint8 pixels in parallel; hostile and corrupted files are refused by name.

Pillow decodes. If a size is requested, images are cropped to the center square and resized (bicubic, antialiased).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pmae.data.imageset import Indices
from pmae.data.progress import progress_bar
from pmae.data.source import Payload, Reader
from pmae.errors import DataError

# Tried in this order. Formats that run programs (EPS) or read other files are excluded.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000")  # MPO is opened as JPEG
MAX_PIXELS = 64 * 1024 * 1024
MAX_FILE_BYTES = 1 << 28
THREADED_FROM = 16 * 1024  # bytes of an encoded image; smaller ones are faster without threads
GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
BLOCK = 256  # images

Pixels = npt.NDArray[np.uint8]
Allocate = Callable[[tuple[int, int, int, int]], Pixels]
"""Makes room for images uint8 (N, H, W, C); raises DataError if there is none."""


class UnreadableError(DataError):
    """A file that is not an image, is truncated, or is refused because of its size."""


class _ColorAfterGrayError(Exception):
    """A color image after gray ones: all images must be decoded again, as color."""


def decode_image(name: str, payload: Payload, image_size: int | None = None) -> Pixels:
    """Decode one image to uint8 (H, W, C), C 1 for gray modes and 3 for all others; 16-bit gray keeps its high byte.

    UnreadableError: ``name`` is not an image, is truncated, or has more than ``MAX_PIXELS`` pixels.
    """
    try:
        if isinstance(payload, Path):
            if payload.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"above {MAX_FILE_BYTES >> 20} MiB")
            payload = payload.read_bytes()
        if isinstance(payload, np.ndarray):
            if image_size is None or payload.shape[:2] == (image_size, image_size):
                return payload
            return _fitted(Image.fromarray(payload[..., 0] if payload.shape[2] == 1 else payload), image_size)
        with Image.open(io.BytesIO(payload), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableError(
                    f"{name} has {image.width} x {image.height} pixels, above the limit of {MAX_PIXELS:,}; "
                    "downscale it before loading"
                )
            return pixels_of(image, image_size)
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's exceptions for hostile bytes have no common base class
        unknown = isinstance(error, UnidentifiedImageError)
        why = f"not one of {', '.join(FORMATS)}" if unknown else f"{type(error).__name__}: {error}"
        raise UnreadableError(
            f"{name} cannot be read as an image ({why}); "
            "repair or remove it, or skip such files with skip_unreadable=True (--skip-unreadable)"
        ) from error


def pixels_of(image: Image.Image, image_size: int | None = None) -> Pixels:
    """Convert a Pillow image to uint8 (H, W, C), upright by its EXIF orientation, and to ``image_size``."""
    return _fitted(ImageOps.exif_transpose(image) if "exif" in image.info else image, image_size)


def _fitted(image: Image.Image, image_size: int | None) -> Pixels:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    mode = "L" if image.mode in GRAY_MODES else "RGB"
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save 8-bit images")
    if image.mode != mode:
        image = image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))  # resize(box=...) filters across the edge of the box
        image = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def decode_images(
    read: Reader,
    wanted: Indices,
    allocate: Allocate,
    *,
    image_size: int | None = None,
    skip_unreadable: bool = False,
    progress: bool = False,
    title: str = "decoding",
) -> tuple[Pixels, list[tuple[int, str]]]:
    """Decode ``wanted`` (distinct indices of the listing) into rows 0, 1, ... of an array, in that order.

    The images become gray (C = 1) if all of them are, else color (C = 3); ``allocate`` is then called again. Returns
    the pixels and (index, message) of each image that was skipped, whose rows are undefined.

    Raises:
        DataError: An unreadable image (unless skipped), or images of different or non-square sizes while
            ``image_size`` is None; both name the file.
    """
    order = np.argsort(wanted, kind="stable")

    def attempt(color: bool) -> tuple[Pixels, list[tuple[int, str]]]:
        images: Pixels | None = None
        if image_size is not None:  # whether there is room is known before the first image is read
            images = allocate((len(wanted), image_size, image_size, 3 if color else 1))
        first = ""
        failed: list[tuple[int, str]] = []
        with progress_bar(title, len(wanted), unit="images", shown=progress) as advance:
            for position, (name, result) in zip(order, _decoded(read(wanted[order]), image_size), strict=True):
                if isinstance(result, np.ndarray):
                    first = first or name
                    height, width, channels = result.shape
                    if images is None:
                        if height != width:
                            raise DataError(
                                f"{name} has {width} x {height} pixels and is not square; give image_size=PIXELS "
                                "(--image-size) to crop every image to its center square and resize it"
                            )
                        images = allocate((len(wanted), height, width, 3 if color else channels))
                    if (height, width) != images.shape[1:3]:
                        raise DataError(
                            f"images have different sizes: {first} has {images.shape[2]} x {images.shape[1]} pixels, "
                            f"{name} has {width} x {height}; give image_size=PIXELS (--image-size) to resize all"
                        )
                    if channels > images.shape[3]:
                        raise _ColorAfterGrayError
                    images[position] = result
                elif skip_unreadable:
                    failed.append((int(wanted[position]), str(result)))
                else:
                    raise result
                advance(1)
        return np.zeros((0, 0, 0, 1), np.uint8) if images is None else images, failed

    try:
        return attempt(color=False)
    except _ColorAfterGrayError:
        return attempt(color=True)


def _decode_or_error(item: tuple[str, Payload], image_size: int | None) -> tuple[str, Pixels | UnreadableError]:
    try:
        return item[0], decode_image(*item, image_size)
    except UnreadableError as error:
        return item[0], error


def _decoded(
    items: Iterator[tuple[str, Payload]], image_size: int | None
) -> Iterator[tuple[str, Pixels | UnreadableError]]:
    """Yield the names and decoded images in order; a block at a time is in memory."""
    decode = partial(_decode_or_error, image_size=image_size)
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="decode") as pool:
        while block := list(islice(items, BLOCK)):
            if _encoded_bytes(block[0][1]) < THREADED_FROM:
                yield from map(decode, block)
            else:
                yield from pool.map(decode, block)


def _encoded_bytes(payload: Payload) -> int:
    if isinstance(payload, Path):
        return payload.stat().st_size if payload.exists() else 0
    return payload.nbytes if isinstance(payload, np.ndarray) else len(payload)


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
