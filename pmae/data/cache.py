"""Decoded images on disk: one folder per set, memory-mapped by every process that uses it.

A set is written atomically, its hash is checked when it is read, and a corrupted set is rebuilt with a
warning. Of processes that need the same set at the same time one builds it, and the others wait.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from pmae.data.decode import Allocate, Pixels
from pmae.data.imageset import ImageSet
from pmae.data.source import consecutive_splits
from pmae.errors import DataError

SCHEMA_VERSION = 1
BLOCK = 1 << 24  # bytes


def cache_dir() -> Path:
    """Return the cache folder: ``$PMAE_CACHE``, else ``~/.cache/pmae``. It may be deleted at any time."""
    chosen = os.environ.get("PMAE_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "pmae"


Build = Callable[[Allocate], tuple[ImageSet, Sequence[str]]]
"""Decodes a set into allocated pixels; returns it, its splits consecutive, and messages about skipped images."""


def warn_of_skipped(name: str, skipped: Sequence[str]) -> None:
    """Warn that a set lacks images, if it does."""
    if skipped:
        shown = "\n  ".join(skipped[:5]) + ("\n  ..." if len(skipped) > 5 else "")
        warnings.warn(f"{name}: skipped {len(skipped)} unreadable images:\n  {shown}", stacklevel=4)


def allocate_in_memory(shape: tuple[int, int, int, int]) -> Pixels:
    """Zeros (N, H, W, C); DataError if they take more than half of the machine's memory."""
    needed, memory = math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory / 2:
        raise DataError(
            f"the images need {needed / 1e6:,.1f} MB, more than half of the memory ({memory / 1e6:,.1f} MB); "
            "lower limit or image_size"
        )
    return np.zeros(shape, dtype=np.uint8)


def _allocate_in_file(path: Path, shape: tuple[int, int, int, int]) -> Pixels:
    """Zeros in a file that is written in full: a write to a map of a file without room would kill the process."""
    if path.exists():  # of a first attempt, in gray, whose map still holds the room of an unlinked file
        os.truncate(path, 0)
    needed, free = math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"the decoded images need {needed / 1e6:,.1f} MB, but {path.parent.parent} has "
            f"{free / 1e6:,.1f} MB free; lower limit or image_size, or set PMAE_CACHE to a larger disk"
        )
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
        for start in range(0, needed, BLOCK):
            file.write(bytes(min(BLOCK, needed - start)))
    return np.lib.format.open_memmap(path, "r+")


def set_key(name: str, files: tuple[Path, ...], settings: dict[str, Any]) -> str:
    """Return the name of the cached set of these files (identified by path, size and time of change) and settings."""
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, name, settings], sort_keys=True).encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "replace"))
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40]
    return f"{slug}-{digest.hexdigest()[:20]}"


def cached_images(key: str, build: Build) -> ImageSet:
    """The set with this ``key`` from the cache, or built and cached; DataError where the cache cannot be written."""
    folder = cache_dir() / "images" / key
    found = _read(folder)
    if isinstance(found, ImageSet):
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{key}.lock")):  # released by the system when its holder dies
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


def _write(folder: Path, build: Build) -> ImageSet:
    for stale in folder.parent.glob(f".{folder.name}.*"):  # left by a killed process; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        built, skipped = build(partial(_allocate_in_file, temporary / "images.npy"))
        warn_of_skipped(built.name, skipped)
        if isinstance(built.images, np.memmap):
            built.images.flush()  # other machines may read the files as soon as they have their name
        np.save(temporary / "labels.npy", built.labels, allow_pickle=False)
        description = {
            "schema_version": SCHEMA_VERSION,
            "name": built.name,
            "class_names": built.class_names,
            "splits": {split: len(indices) for split, indices in built.splits.items()},
            "skipped": skipped,
            "fingerprint": built.fingerprint,
        }
        (temporary / "set.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        if folder.exists():
            folder.rename(temporary / "corrupted")
        os.replace(temporary, folder)
        shutil.rmtree(folder / "corrupted", ignore_errors=True)
        return dataclasses.replace(built, images=_map(folder))
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
        warn_of_skipped(description["name"], description["skipped"])
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        splits = consecutive_splits(description["splits"])
        images = ImageSet(_map(folder), labels, description["class_names"], splits, description["name"])
        return images if images.fingerprint == description["fingerprint"] else "its checksum does not match"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        return f"{type(error).__name__}: {error}"


def _map(folder: Path) -> Pixels:
    # The plain view of the map pickles out of band, so Ray shares it instead of copying it.
    return np.asarray(np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False))
