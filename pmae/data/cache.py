"""Decoded images on disk: one folder per set, memory-mapped by every process that uses it.

A set is written atomically, its hash is checked when a process first reads it, and a corrupted set is rebuilt with a
warning. Of processes that need the same set at the same time one builds it, and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from pmae.data.decode import Pixels, PixelSink
from pmae.data.imageset import ImageSet, Indices
from pmae.errors import DataError

SCHEMA_VERSION = 1
_verified: dict[Path, tuple[int, ...]] = {}  # folders with a hash that this process has checked -> state of the files


def cache_dir() -> Path:
    """Return the cache folder: ``$PMAE_CACHE``, else ``~/.cache/pmae``. It may be deleted at any time."""
    chosen = os.environ.get("PMAE_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "pmae"


@dataclass(frozen=True)
class Contents:
    """Everything in a set except its pixels. ``splits`` are consecutive: name -> number of images."""

    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    splits: dict[str, int]
    name: str
    skipped: tuple[str, ...] = ()

    def with_images(self, images: Pixels, fingerprint: str = "") -> ImageSet:
        """Combine the contents with pixels (N, H, W, C) to a set; warn if files were skipped."""
        if self.skipped:
            shown = "\n  ".join(self.skipped[:5]) + ("\n  ..." if len(self.skipped) > 5 else "")
            warnings.warn(f"{self.name}: skipped {len(self.skipped)} unreadable images:\n  {shown}", stacklevel=4)
        ends = np.cumsum([0, *self.splits.values()])
        splits = {n: np.arange(a, b) for n, a, b in zip(self.splits, ends[:-1], ends[1:], strict=True)}
        return ImageSet(images, self.labels, self.class_names, splits, self.name, fingerprint)


Build = Callable[[PixelSink], Contents]


class MemorySink:
    """A :class:`PixelSink` in memory, for sets that need no cache."""

    images: Pixels

    def check_room(self, shape: tuple[int, int, int, int]) -> None:
        """Raise DataError if images (N, H, W, C) take more than half of the machine's memory."""
        needed, memory = math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > memory / 2:
            raise DataError(
                f"the images need {needed / 1e6:,.1f} MB, more than half of the memory ({memory / 1e6:,.1f} MB); "
                "lower limit or image_size"
            )

    def allocate(self, shape: tuple[int, int, int, int]) -> None:
        """Allocate (N, H, W, C)."""
        self.check_room(shape)
        self.images = np.zeros(shape, dtype=np.uint8)

    def write(self, positions: Indices, pixels: Pixels) -> None:
        """Put pixels (n, H, W, C) at rows ``positions``."""
        self.images[positions] = pixels


class FileSink:
    """A :class:`PixelSink` in an ``.npy`` file. It is not mapped, so that a full disk raises an error."""

    file: BinaryIO | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def check_room(self, shape: tuple[int, int, int, int]) -> None:
        """Raise DataError if images (N, H, W, C) do not fit on the disk."""
        needed, free = math.prod(shape), shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise DataError(
                f"the decoded images need {needed / 1e6:,.1f} MB, but {self.path.parent.parent} has "
                f"{free / 1e6:,.1f} MB free; lower limit or image_size, or set PMAE_CACHE to a larger disk"
            )

    def allocate(self, shape: tuple[int, int, int, int]) -> None:
        """Start the file for (N, H, W, C)."""
        self.close()
        self.check_room(shape)
        self.file = open(self.path, "wb", buffering=0)  # noqa: SIM115 (closed by close)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start, self.row = self.file.tell(), math.prod(shape[1:])
        self.file.truncate(self.start + math.prod(shape))

    def write(self, positions: Indices, pixels: Pixels) -> None:
        """Put pixels (n, H, W, C) at rows ``positions``; consecutive rows are one write."""
        assert self.file is not None
        order = np.argsort(positions)
        for run in np.split(order, np.flatnonzero(np.diff(positions[order]) != 1) + 1):
            self.file.seek(self.start + int(positions[run[0]]) * self.row)
            self.file.write(pixels[run].data)

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def set_key(name: str, files: tuple[Path, ...], settings: dict[str, Any]) -> str:
    """Return the name of the cached set of these files (identified by path, size and time of change) and settings."""
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, name, settings], sort_keys=True).encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "replace"))
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40]
    return f"{slug}-{digest.hexdigest()[:20]}"


def cached_images(key: str, build: Build, *, progress: bool = False) -> ImageSet:
    """Return the set with this ``key`` from the cache, or build and cache it.

    Raises:
        DataError: The cache cannot be written, or ``build`` raises it.
    """
    folder = cache_dir() / "images" / key
    found = _read(folder)
    if isinstance(found, ImageSet):
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{key}.lock"), progress):
            found = _read(folder)  # another process may have built it meanwhile
            if isinstance(found, ImageSet):
                return found
            if found:
                warnings.warn(f"the cached images in {folder} are corrupted ({found}); rebuilding them", stacklevel=3)
            return _write(folder, build)
    except OSError as error:
        raise DataError(
            f"the cache {folder.parent} cannot be written ({error}); "
            "make room there, or set PMAE_CACHE to another folder"
        ) from error


@contextmanager
def _locked(path: Path, progress: bool) -> Iterator[None]:
    """Hold the lock; the system releases it when its holder dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=2)
    except Timeout:
        if progress:
            print("another process is preparing the same images; waiting for it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(folder: Path, build: Build) -> ImageSet:
    for stale in folder.parent.glob(f".{folder.name}.*"):  # left by a killed process; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        sink = FileSink(temporary / "images.npy")
        try:
            contents = build(sink)
        finally:
            sink.close()
        np.save(temporary / "labels.npy", contents.labels, allow_pickle=False)
        built = contents.with_images(_map(temporary))
        stored = {name: getattr(contents, name) for name in ("name", "class_names", "splits", "skipped")}
        description = {"schema_version": SCHEMA_VERSION, **stored, "fingerprint": built.fingerprint}
        (temporary / "set.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        if folder.exists():
            folder.rename(temporary / "corrupted")
        os.replace(temporary, folder)
        shutil.rmtree(folder / "corrupted", ignore_errors=True)
        _verified[folder] = _state(folder)
        return built
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path) -> ImageSet | str:
    """Return the set, or the reason why it cannot be used; an empty string if it does not exist."""
    if not folder.is_dir():
        return ""
    try:
        description = json.loads((folder / "set.json").read_text(encoding="utf-8"))
        if description["schema_version"] != SCHEMA_VERSION:
            return f"schema version {description['schema_version']}, not {SCHEMA_VERSION}"
        contents = Contents(
            labels=np.load(folder / "labels.npy", allow_pickle=False),
            class_names=tuple(description["class_names"]),
            splits=description["splits"],
            name=description["name"],
            skipped=tuple(description["skipped"]),
        )
        state, fingerprint = _state(folder), description["fingerprint"]
        known = _verified.get(folder) == state
        images = contents.with_images(_map(folder), fingerprint if known else "")
        if images.fingerprint != fingerprint:
            return "its checksum does not match"
        _verified[folder] = state
        return images
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        return f"{type(error).__name__}: {error}"


def _map(folder: Path) -> Pixels:
    # The plain view of the map pickles out of band, so Ray shares it instead of copying it.
    return np.asarray(np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False))


def _state(folder: Path) -> tuple[int, ...]:
    stats = [(folder / name).stat() for name in ("images.npy", "labels.npy", "set.json")]
    return tuple(x for s in stats for x in (s.st_ino, s.st_size, s.st_mtime_ns))
