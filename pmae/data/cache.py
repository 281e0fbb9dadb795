"""Decoded images on disk: one folder per set, mapped into memory by every process that uses it.

A set is written atomically, checked against its hash when a process first reads it, and rebuilt with a warning if it
is corrupted. Processes that need the same set at the same time wait for the first one to build it.
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
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from pmae.data.decode import Pixels, PixelSink
from pmae.data.imageset import ImageSet, Indices
from pmae.errors import DataError

SCHEMA_VERSION = 1
_verified: dict[Path, tuple[int, ...]] = {}  # folders whose hash this process has checked -> state of their files


def cache_dir() -> Path:
    """The cache: ``$PMAE_CACHE``, else ``~/.cache/pmae``. It may be deleted at any time."""
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
        """The set; a warning lists what was skipped."""
        if self.skipped:
            shown = "\n  ".join(self.skipped[:5]) + ("\n  ..." if len(self.skipped) > 5 else "")
            warnings.warn(f"{self.name}: skipped {len(self.skipped)} unreadable images:\n  {shown}", stacklevel=4)
        ends = np.cumsum([0, *self.splits.values()])
        splits = {n: np.arange(a, b) for n, a, b in zip(self.splits, ends[:-1], ends[1:], strict=True)}
        return ImageSet(images, self.labels, self.class_names, splits, self.name, fingerprint)


class Sink(Protocol):
    """Where decoded pixels go; called once their shape is known."""

    def check_room(self, shape: tuple[int, int, int, int]) -> None:
        """Refuse what does not fit, before anything is decoded."""

    def __call__(self, shape: tuple[int, int, int, int]) -> PixelSink:
        """Make room."""


Build = Callable[[Sink], Contents]


class MemorySink:
    """Pixels in an array; for sets that need no cache."""

    images: Pixels

    def check_room(self, shape: tuple[int, int, int, int]) -> None:
        """Refuse images (N, H, W, C) that take more than half of the machine's memory; raises DataError."""
        needed, memory = math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > memory / 2:
            raise DataError(
                f"the images need {needed / 1e6:,.1f} MB, more than half of the memory ({memory / 1e6:,.1f} MB); "
                "lower limit or image_size"
            )

    def __call__(self, shape: tuple[int, int, int, int]) -> MemorySink:
        """Allocate (N, H, W, C)."""
        self.check_room(shape)
        self.images = np.zeros(shape, dtype=np.uint8)
        return self

    def write(self, positions: Indices, pixels: Pixels) -> None:
        """Put pixels (n, H, W, C) at rows ``positions``."""
        self.images[positions] = pixels


class FileSink:
    """Pixels in an ``.npy`` file. Written, not mapped, so that a full disk raises an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO | None = None

    def check_room(self, shape: tuple[int, int, int, int]) -> None:
        """Refuse images (N, H, W, C) that do not fit on the disk; raises DataError."""
        needed, free = math.prod(shape), shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise DataError(
                f"the decoded images need {needed / 1e6:,.1f} MB, but {self.path.parent.parent} has "
                f"{free / 1e6:,.1f} MB free; lower limit or image_size, or set PMAE_CACHE to a larger disk"
            )

    def __call__(self, shape: tuple[int, int, int, int]) -> FileSink:
        """Start the file for (N, H, W, C)."""
        self.close()
        self.check_room(shape)
        needed = math.prod(shape)
        self.file = open(self.path, "wb", buffering=0)  # noqa: SIM115 (closed by close)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start, self.row = self.file.tell(), int(np.prod(shape[1:]))
        self.file.truncate(self.start + needed)
        return self

    def write(self, positions: Indices, pixels: Pixels) -> None:
        """Put pixels (n, H, W, C) at rows ``positions``, runs of consecutive rows with one write each."""
        assert self.file is not None
        order = np.argsort(positions)
        for run in np.split(order, np.flatnonzero(np.diff(positions[order]) != 1) + 1):
            self.file.seek(self.start + int(positions[run[0]]) * self.row)
            self.file.write(pixels[run].data)

    def close(self) -> None:
        """Finish the file."""
        if self.file is not None:
            self.file.close()


def set_key(name: str, files: tuple[Path, ...], settings: dict[str, Any]) -> str:
    """Name of the cached set of these files (by path, size and time of change) and settings."""
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, name, settings], sort_keys=True).encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "replace"))
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40]
    return f"{slug}-{digest.hexdigest()[:20]}"


def cached_images(key: str, build: Build, *, progress: bool = False) -> ImageSet:
    """The set with this ``key`` from the cache, else from ``build``, whose result is cached.

    Raises:
        DataError: The cache cannot be written; and whatever ``build`` raises.
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
    """The lock; the system releases it when its holder dies."""
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
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    beside.mkdir()
    try:
        sink = FileSink(beside / "images.npy")
        try:
            contents = build(sink)
        finally:
            sink.close()
        np.save(beside / "labels.npy", contents.labels, allow_pickle=False)
        built = contents.with_images(_map(beside))
        _write_description(beside, contents, built.fingerprint)
        if folder.exists():
            folder.rename(beside / "damaged")
        os.replace(beside, folder)
        shutil.rmtree(folder / "damaged", ignore_errors=True)
        _verified[folder] = _state(folder)
        return built
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_description(beside: Path, contents: Contents, fingerprint: str) -> None:
    description = {
        "schema_version": SCHEMA_VERSION,
        "name": contents.name,
        "class_names": contents.class_names,
        "splits": contents.splits,
        "skipped": contents.skipped,
        "fingerprint": fingerprint,
    }
    (beside / "set.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def _read(folder: Path) -> ImageSet | str:
    """The set, or why it cannot be used; an empty string if it does not exist."""
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
