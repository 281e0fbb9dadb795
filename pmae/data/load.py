"""``load_images``: from a source, named or in memory, to an :class:`ImageSet`, through the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pmae.data.cache import Contents, MemorySink, cached_images, set_key
from pmae.data.decode import PixelSink, decode_images
from pmae.data.imageset import ImageSet
from pmae.data.source import Listing, Request, Source
from pmae.data.sources import cifar10, digits, folder, medmnist, npz, parquet, tinyimagenet
from pmae.data.sources.objects import find_object
from pmae.data.splits import plan_splits
from pmae.errors import ConfigError, DataError, did_you_mean
from pmae.files import user_path

Find = Callable[[Request], Source]

NAMED: dict[str, Find] = {"digits": digits.find, "cifar10": cifar10.find, "tinyimagenet": tinyimagenet.find}
MAX_IMAGE_SIZE = 2048  # pixels; masked autoencoders are trained on 224
AT_PATH: dict[str, Find] = {"folder": folder.find, "parquet": parquet.find, "npz": npz.find}


def load_images(
    source: Any,
    root: str | Path | None = None,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    *,
    skip_unreadable: bool = False,
    progress: bool = False,
) -> ImageSet:
    """Load a dataset with its train, val and test splits (the rules are those of :mod:`pmae.data.splits`).

    Args:
        source: ``digits``, ``cifar10``, ``tinyimagenet``, a 2-D MedMNIST flag such as ``bloodmnist``,
            ``folder:PATH``, ``parquet:PATH`` or ``npz:PATH``; or images in memory: ``(images, labels)`` or images as
            arrays or tensors (uint8, or floats in [0, 1]), a torch ``Dataset``, a Hugging Face ``Dataset`` or
            ``DatasetDict``, an :class:`ImageSet`, or a mapping from split names to any of these.
        root: For a named source the folder of its downloads; for a path the folder that a relative path starts from.
            None: the cache, or the current folder.
        image_size: Side in pixels; each image is cropped to its center square and resized (bicubic, antialiased).
            None keeps the size; all images must then be square and of one size.
        limit: Most training images, balanced over the classes as far as they allow; val and test get as many at most.
        seed: Random seed for held-out splits and for ``limit``.
        skip_unreadable: Skip files that are not images, with a warning, instead of stopping at the first.
        progress: Show the progress of downloads and decoding on standard error.

    Returns:
        The set, its images ordered train, val, test; memory-mapped from the cache unless the source has no files.

    Raises:
        ConfigError: An invalid setting or an unknown source.
        DataError: Files that are missing, corrupted, hostile, unlabeled or inconsistent.
    """
    for name, value, least in (("image_size", image_size, 4), ("limit", limit, 1), ("seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    if image_size is not None and image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"image_size is {image_size}; it must be at most {MAX_IMAGE_SIZE:,}, for example 64 or 224")
    if not isinstance(source, str):
        if root is not None:
            raise ConfigError("root has no effect on images in memory; leave it out")
        found = find_object(source)
    else:
        found = _find(source, None if root is None else user_path(root, "root"), image_size, progress)

    def build(sink: PixelSink) -> Contents:
        return _build(
            found,
            sink,
            splitting={"limit": limit, "seed": seed},
            decoding={"image_size": image_size, "skip_unreadable": skip_unreadable, "progress": progress},
        )

    if not found.files:
        sink = MemorySink()
        contents = build(sink)
        return contents.with_images(sink.images)
    settings = {"image_size": image_size, "limit": limit, "seed": seed, "skip_unreadable": skip_unreadable}
    return cached_images(set_key(found.name, found.files, settings), build, progress=progress)


def absolute_source(source: str, root: str | None) -> str:
    """Make the path of a source absolute, so that it is found from any folder; unchanged if there is a ``root``."""
    kind, _, path = source.partition(":")
    if kind not in AT_PATH or root is not None or not path:
        return source
    return f"{kind}:{user_path(path, f'{kind}:').absolute()}"


def _find(source: str, root: Path | None, image_size: int | None, progress: bool) -> Source:
    name, colon, argument = source.partition(":")
    if root is not None and root.is_file():
        raise DataError(f"root {root} is a file; give its parent folder: root={str(root.parent)!r}")
    request = Request(name=name, argument=argument, root=root, image_size=image_size, progress=progress)
    if name in NAMED and not colon:
        return NAMED[name](request)
    if name in AT_PATH and (argument or root is not None):
        return AT_PATH[name](request)
    if name in AT_PATH:
        raise ConfigError(f"source {source!r} has no path; write {name}:PATH")
    if medmnist.is_flag(source):
        return medmnist.find(request)
    raise ConfigError(_unknown(source))


def _unknown(source: str) -> str:
    named = [*NAMED, *medmnist.flags()]
    allowed = [*named, *(f"{kind}:PATH" for kind in AT_PATH)]
    path = _path_if_any(source)
    if path is not None:
        kind = {".parquet": "parquet", ".npz": "npz"}.get(path.suffix.lower(), "folder")
        hint = f" (did you mean '{kind}:{source}'?)"
    else:
        hint = did_you_mean(source.lower(), [*named, *AT_PATH])
    shown = source if len(source) <= 100 else f"{source[:60]}... ({len(source)} characters)"
    return f"unknown dataset {shown!r}{hint}; available are {', '.join(allowed)}"


def _path_if_any(source: str) -> Path | None:
    try:
        path = user_path(source, "source")
        return path if path.exists() else None
    except (ConfigError, OSError):
        return None


def _build(found: Source, sink: PixelSink, splitting: dict[str, Any], decoding: dict[str, Any]) -> Contents:
    listing = found.list()
    official, skipped = listing.splits, []
    while True:
        splits = plan_splits(listing.labels, listing.class_names, official, name=found.name, **splitting)
        wanted = np.concatenate(list(splits.values()))
        if size := decoding["image_size"]:
            sink.check_room((len(wanted), size, size, 1))
        failed = decode_images(listing.read, wanted, sink, title=f"decoding {found.name}", **decoding)
        if not failed:
            break
        skipped += [message for _, message in failed]
        official = _without(listing, official, [index for index, _ in failed])
    return Contents(
        labels=listing.labels[wanted].astype(np.int64),
        class_names=listing.class_names,
        splits={split: len(indices) for split, indices in splits.items()},
        name=found.name,
        skipped=tuple(skipped),
    )


def _without(listing: Listing, official: dict[str, Any], failed: list[int]) -> dict[str, Any]:
    kept = {split: np.setdiff1d(indices, failed) for split, indices in official.items()}
    for split, indices in official.items():
        lost = np.setdiff1d(listing.labels[indices], listing.labels[kept[split]])
        if len(lost):
            names = ", ".join(repr(listing.class_names[c]) for c in lost[:5])
            raise DataError(f"no image of {names} in the {split} split can be read; repair the files")
    return kept
