"""``load_images``: from a source, named or in memory, to an :class:`ImageSet`, through the cache.

The rules of the splits are the same for every source:

* Official splits are kept. A single official held-out split is the *test* split, whatever its name (a source with
  ``train`` and ``val`` only, such as TinyImageNet, is tested on ``val``).
* Without a held-out split, a stratified fifth of train is the test split.
* Without a validation split, a stratified tenth of the remaining train split is.
* ``limit`` keeps that many training images, balanced over the classes as far as they allow, and at most as many
  validation and test images, in the proportions of the classes. Held-out images do not depend on ``limit``.

Splits are drawn from ``seed`` and sorted: the same arguments give the same images in the same order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pmae.data.cache import allocate_in_memory, cached_images, set_key, warn_of_skipped
from pmae.data.decode import Allocate, decode_images
from pmae.data.imageset import UNLABELED, ImageSet, Indices
from pmae.data.source import Listing, Request, Source, consecutive_splits
from pmae.data.sources import folder, named, npz, parquet
from pmae.data.sources.objects import find_object
from pmae.errors import ConfigError, DataError, did_you_mean
from pmae.files import user_path

Find = Callable[[Request], Source]
Counts = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]

NAMED: dict[str, Find] = {
    "digits": named.find_digits,
    "cifar10": named.find_cifar10,
    "tinyimagenet": named.find_tinyimagenet,
}
MAX_IMAGE_SIZE = 2048  # pixels; masked autoencoders are trained on 224
AT_PATH: dict[str, Find] = {"folder": folder.find, "parquet": parquet.find, "npz": npz.find}
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


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
    """Load a dataset with its train, val and test splits (the rules are those of :mod:`pmae.data.load`).

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
        if (value is not None or name == "seed") and (
            isinstance(value, bool) or not isinstance(value, Integral) or value < least
        ):
            raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    image_size, limit = (None if n is None else int(n) for n in (image_size, limit))
    seed = int(seed)
    if image_size is not None and image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"image_size is {image_size}; it must be at most {MAX_IMAGE_SIZE:,}, for example 64 or 224")
    if not isinstance(source, str):
        if root is not None:
            raise ConfigError("root has no effect on images in memory; leave it out")
        found = find_object(source)
    else:
        found = _find(source, None if root is None else user_path(root, "root"), image_size, progress)

    def build(allocate: Allocate) -> tuple[ImageSet, list[str]]:
        listing = found.list()
        official, skipped = listing.splits, list[str]()
        while True:
            splits = plan_splits(listing.labels, listing.class_names, official, limit=limit, seed=seed, name=found.name)
            wanted = np.concatenate(list(splits.values()))
            images, failed = decode_images(
                listing.read,
                wanted,
                allocate,
                image_size=image_size,
                skip_unreadable=skip_unreadable,
                progress=progress,
                title=f"decoding {found.name}",
            )
            if not failed:
                break
            skipped += [message for _, message in failed]
            official = _without(listing, official, [index for index, _ in failed])
        consecutive = consecutive_splits({split: len(indices) for split, indices in splits.items()})
        labels = listing.labels[wanted].astype(np.int64)
        return ImageSet(images, labels, listing.class_names, consecutive, found.name), skipped

    if not found.files:
        images, skipped = build(allocate_in_memory)
        warn_of_skipped(images.name, skipped)
        return images
    settings = {"image_size": image_size, "limit": limit, "seed": seed, "skip_unreadable": skip_unreadable}
    return cached_images(set_key(found.name, found.files, settings), build)


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
    if name in AT_PATH:
        if not argument and root is None:
            raise ConfigError(f"source {source!r} has no path; write {name}:PATH")
        return AT_PATH[name](request)
    if source in named.medmnist_info():
        return named.find_medmnist(request)
    known = [*NAMED, *(flag for flag in named.medmnist_info() if not flag.endswith("3d"))]
    try:
        is_path = user_path(source, "source").exists()
    except (ConfigError, OSError):
        is_path = False
    kind = {".parquet": "parquet", ".npz": "npz"}.get(Path(source).suffix.lower(), "folder")
    hint = f" (did you mean '{kind}:{source}'?)" if is_path else did_you_mean(source.lower(), [*known, *AT_PATH])
    shown = source if len(source) <= 100 else f"{source[:60]}... ({len(source)} characters)"
    allowed = ", ".join([*known, *(f"{kind}:PATH" for kind in AT_PATH)])
    raise ConfigError(f"unknown dataset {shown!r}{hint}; available are {allowed}")


def _without(listing: Listing, official: dict[str, Any], failed: list[int]) -> dict[str, Any]:
    kept = {split: np.setdiff1d(indices, failed) for split, indices in official.items()}
    for split, indices in official.items():
        lost = np.setdiff1d(listing.labels[indices], listing.labels[kept[split]])
        if len(lost):
            names = ", ".join(repr(listing.class_names[c]) for c in lost[:5])
            raise DataError(f"no image of {names} in the {split} split can be read; repair the files")
    return kept


def plan_splits(
    labels: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    official: dict[str, Indices],
    *,
    limit: int | None,
    seed: int,
    name: str,
) -> dict[str, Indices]:
    """The sorted indices of ``train``, ``val`` and ``test`` by the rules above; an error names what they need."""
    splits = {k: np.sort(np.asarray(v, dtype=np.int64)) for k, v in official.items()}
    for split, indices in splits.items():
        if not len(indices):
            raise DataError(f"the {split} split of {name!r} holds no images; fill it or leave it out")
    if "train" not in splits:
        raise DataError(f"{name!r} has no train split, only {', '.join(splits) or 'nothing'}; add one named 'train'")
    _check_classes(labels, class_names, splits, name)
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    rng = np.random.default_rng([seed, 0x5EED])
    for held, share in (("test", TEST_SHARE), ("val", VALIDATION_SHARE)):
        if held not in splits:
            splits[held] = _draw(labels, splits["train"], partial(_held_counts, share=share), rng)
            splits["train"] = np.setdiff1d(splits["train"], splits[held])
            if not len(splits[held]):
                raise DataError(
                    f"{name!r} has one training image per class, so none can be held out for {held}; "
                    f"add images, or give it a {held} split"
                )
    if limit is not None:
        splits = _limited(labels, splits, limit, rng, name)
    return {split: splits[split] for split in ("train", "val", "test")}


def _check_classes(
    labels: npt.NDArray[np.int64], class_names: tuple[str, ...], splits: dict[str, Indices], name: str
) -> None:
    present = {split: set(np.unique(labels[indices]).tolist()) for split, indices in splits.items()}
    train = present["train"]
    if len(train) < 2 and class_names != UNLABELED:
        raise DataError(
            f"the train split of {name!r} has a single class ({', '.join(class_names[c] for c in train)}); a probe "
            "needs two: add images of another class"
        )

    def shown(classes: set[int]) -> str:
        some = ", ".join(repr(class_names[c]) for c in sorted(classes)[:5]) + (", ..." if len(classes) > 5 else "")
        return f"{'class' if len(classes) == 1 else f'{len(classes)} classes:'} {some}"

    for split, classes in present.items():
        if classes - train:
            raise DataError(
                f"the {split} split of {name!r} has {shown(classes - train)}, which train lacks; "
                "add training images of it or remove it"
            )
    for split, classes in present.items():
        missing = (set(range(len(class_names))) if split == "train" else train) - classes
        if missing:
            warnings.warn(f"the {split} split of {name!r} has no images of {shown(missing)}", stacklevel=2)


def _limited(
    labels: npt.NDArray[np.int64], splits: dict[str, Indices], limit: int, rng: np.random.Generator, name: str
) -> dict[str, Indices]:
    classes = len(np.unique(labels[splits["train"]]))
    if limit < classes:
        raise ConfigError(
            f"limit is {limit}, but {name!r} has {classes} classes; take at least {classes} (one image per class)"
        )
    train = _draw(labels, splits["train"], partial(_even_counts, total=limit), rng)
    return {
        split: train if split == "train" else _draw(labels, indices, partial(_shared_counts, total=limit), rng)
        for split, indices in splits.items()
    }


def _draw(labels: npt.NDArray[np.int64], indices: Indices, counts: Counts, rng: np.random.Generator) -> Indices:
    """Draw ``counts(class sizes)`` of ``indices`` from each class; sorted."""
    own = labels[indices]
    order = np.argsort(own, kind="stable")
    members = np.split(indices[order], np.flatnonzero(np.diff(own[order])) + 1)
    wanted = counts(np.array([len(m) for m in members]))
    return np.sort(np.concatenate([rng.permutation(m)[:n] for m, n in zip(members, wanted, strict=True)]))


def _held_counts(sizes: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """The ``share`` of every class: at least one image, but never the last of a class."""
    return np.clip(np.round(sizes * share), 1, sizes - 1).astype(np.int64)


def _even_counts(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Spread ``total`` over the classes as evenly as their sizes allow: one each in turn, while images are left."""
    turns = np.concatenate([np.arange(size) for size in sizes])
    classes = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(classes[np.argsort(turns, kind="stable")[:total]], minlength=len(sizes))


def _shared_counts(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Spread ``total`` over the classes in proportion to their sizes (largest remainders)."""
    total = min(total, int(sizes.sum()))
    exact = sizes * (total / sizes.sum())
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return counts
