"""The interface of a source: its files (:class:`Source`) and their contents (:class:`Listing`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pmae.data.imageset import Indices

Payload: TypeAlias = "bytes | Path | npt.NDArray[np.uint8]"
"""One image: an encoded file's bytes, its path, or pixels uint8 (H, W, C)."""

Reader: TypeAlias = Callable[[Indices], Iterator[tuple[str, Payload]]]
"""Yields (name for messages, payload) for increasing indices into a listing."""


@dataclass(frozen=True)
class Request:
    """What the user asked a source for.

    Attributes:
        name: The part of the source before the colon, for example ``cifar10`` or ``folder``.
        argument: The part after it: a path, or an empty string.
        root: Folder of downloads, or the folder that a relative path starts from; None is the default.
        image_size: Side in pixels that images will be resized to; None keeps their size.
        progress: Whether to show the progress of downloads.
    """

    name: str
    argument: str = ""
    root: Path | None = None
    image_size: int | None = None
    progress: bool = False


@dataclass(frozen=True)
class Listing:
    """The contents of a source before its pixels are read.

    Attributes:
        labels: int64 (N,) indices into ``class_names``.
        class_names: Names of the classes.
        splits: The official splits: name -> int64 indices; ``train`` is required.
        read: Reads the payloads of increasing indices.
    """

    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    splits: dict[str, Indices]
    read: Reader


@dataclass(frozen=True)
class Source:
    """A source that was found. Creating one reads no images, so that a cached set is recognized quickly.

    Attributes:
        name: Short name for tables.
        files: Every file that images and labels come from; empty for images in memory or in a package.
        list: Reads labels and splits.
    """

    name: str
    files: tuple[Path, ...]
    list: Callable[[], Listing]


def encode_labels(values: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return labels int64 (N,) and class names: the distinct ``values``, sorted."""
    names, labels = np.unique(values, return_inverse=True)
    return labels.reshape(-1).astype(np.int64), tuple(str(name) for name in names.tolist())


def read_rows(images: npt.NDArray[np.uint8], name: str) -> Reader:
    """Return a reader of pixels in memory, uint8 (N, H, W, C)."""

    def read(indices: Indices) -> Iterator[tuple[str, Payload]]:
        for i in indices:
            yield f"{name}, image {i}", images[i]

    return read
