"""The interface of a source: its files (:class:`Source`) and their contents (:class:`Listing`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pmae.data.imageset import Indices
from pmae.errors import DataError
from pmae.files import user_path

Payload: TypeAlias = "bytes | Path | npt.NDArray[np.uint8]"
"""One image: an encoded file's bytes, its path, or pixels uint8 (H, W, C)."""

Reader: TypeAlias = Callable[[Indices], Iterator[tuple[str, Payload]]]
"""Yields (name for messages, payload) for increasing indices into a listing."""


SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True)
class Request:
    """What the user asked a source for: ``name:argument``, where ``root`` holds downloads or begins relative paths."""

    name: str
    argument: str = ""
    root: Path | None = None
    image_size: int | None = None
    progress: bool = False

    @property
    def path(self) -> Path:
        """The argument as a path, ``~`` expanded; a relative path starts from the root."""
        path = user_path(self.argument, f"{self.name}:")
        return path if self.root is None else self.root / path


@dataclass(frozen=True)
class Listing:
    """The contents of a source before its pixels are read.

    ``labels`` (N,) are indices into ``class_names``, ``splits`` the official ones (``train`` is required); ``read``
    gives the payloads of increasing indices.
    """

    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    splits: dict[str, Indices]
    read: Reader


@dataclass(frozen=True)
class Source:
    """A source that was found. Creating one reads no images, so that a cached set is recognized quickly.

    ``files`` are all that images and labels come from, none for images in memory or in a package; ``list`` reads labels
    and splits.
    """

    name: str
    files: tuple[Path, ...]
    list: Callable[[], Listing]


def consecutive_splits(counts: Mapping[str, int]) -> dict[str, Indices]:
    """Split name -> indices, of splits that follow each other."""
    ends = np.cumsum([0, *counts.values()])
    return {name: np.arange(a, b) for name, a, b in zip(counts, ends[:-1], ends[1:], strict=True)}


def join_parts(parts: Sequence[tuple[str, int, Reader]]) -> tuple[dict[str, Indices], Reader]:
    """Splits and reader of parts (split, number of images, their reader) that follow each other."""
    counts: dict[str, int] = {}
    for split, count, _ in parts:
        counts[split] = counts.get(split, 0) + count

    def read(indices: Indices) -> Iterator[tuple[str, Payload]]:
        start = 0
        for _, count, read_part in parts:
            yield from read_part(indices[(indices >= start) & (indices < start + count)] - start)
            start += count

    return consecutive_splits(counts), read


def name_labels(
    values: npt.NDArray[Any], class_names: tuple[str, ...], where: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return labels int64 (N,), indices into class names, and these: the given, else the sorted distinct values."""
    check_labels(values, class_names, where)
    if class_names and values.dtype.kind != "U" and len(values):
        return values.astype(np.int64), class_names
    names, labels = np.unique(values, return_inverse=True)
    return labels.reshape(-1).astype(np.int64), tuple(str(name) for name in names.tolist())


def check_labels(values: npt.NDArray[Any], class_names: tuple[str, ...], where: str) -> None:
    """Refuse class numbers below 0, or above the class names that are given; the DataError begins with ``where``."""
    if values.dtype.kind != "U" and len(values):
        low, high = values.min(), values.max()
        if low < 0 or (class_names and high >= len(class_names)):
            named = f"from 0 to {len(class_names) - 1} ({', '.join(class_names[:10])})" if class_names else "from 0"
            unknown = "-1 usually means that labels are not public: leave those images out"
            way_out = unknown if low < 0 else "Correct the labels, replace a corrupted file, or name all classes"
            raise DataError(f"{where}: labels run from {low} to {high}; they must be class numbers {named}. {way_out}")


def read_each(get: Callable[[int], Payload], name: str) -> Reader:
    """Return a reader of images in memory, of which ``get(i)`` is the i-th payload."""

    def read(indices: Indices) -> Iterator[tuple[str, Payload]]:
        for i in indices:
            yield f"{name}, image {i}", get(int(i))

    return read


@contextmanager
def reraise_as(what: str, way_out: str) -> Iterator[None]:
    """Turn every exception into a DataError ``what (exception); way_out``."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser have no common base class
        raise DataError(f"{what} ({type(error).__name__}: {error}); {way_out}") from error
