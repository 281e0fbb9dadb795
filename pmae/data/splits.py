"""Train, validation and test splits: official ones, held-out ones, and the subset that ``limit`` asks for.

The rules are the same for every source:

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

import numpy as np
import numpy.typing as npt

from pmae.data.imageset import UNLABELED, Indices
from pmae.errors import ConfigError, DataError

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


def plan_splits(
    labels: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    official: dict[str, Indices],
    *,
    limit: int | None,
    seed: int,
    name: str,
) -> dict[str, Indices]:
    """Return the sorted indices of ``train``, ``val`` and ``test`` by the rules above.

    Raises:
        DataError: An empty split, fewer than two classes, too few images to hold any out, or a class that is missing
            in train.
        ConfigError: ``limit`` is below the number of classes.
    """
    splits = {k: np.sort(np.asarray(v, dtype=np.int64)) for k, v in official.items()}
    for split, indices in splits.items():
        if not len(indices):
            raise DataError(f"the {split} split of {name!r} holds no images; fill it or leave it out")
    if "train" not in splits:
        raise DataError(f"{name!r} has no train split, only {', '.join(splits) or 'nothing'}; add one named 'train'")
    _check_classes(labels, class_names, splits, name)
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    draw = np.random.default_rng([seed, 0x5EED])
    for held, share in (("test", TEST_SHARE), ("val", VALIDATION_SHARE)):
        if held not in splits:
            splits[held] = _hold_out(labels, splits["train"], share, draw)
            splits["train"] = np.setdiff1d(splits["train"], splits[held])
            if not len(splits[held]):
                raise DataError(
                    f"{name!r} has one training image per class, so none can be held out for {held}; "
                    f"add images, or give it a {held} split"
                )
    if limit is not None:
        splits = _limited(labels, splits, limit, draw, name)
    return {split: splits[split] for split in ("train", "val", "test")}


def _check_classes(
    labels: npt.NDArray[np.int64], class_names: tuple[str, ...], splits: dict[str, Indices], name: str
) -> None:
    present = {split: set(np.unique(labels[indices]).tolist()) for split, indices in splits.items()}
    if len(present["train"]) < 2 and class_names != UNLABELED:
        only = ", ".join(class_names[c] for c in present["train"])
        raise DataError(
            f"the train split of {name!r} has a single class ({only}); a probe needs two: add images of another class"
        )
    for split, classes in present.items():
        extra = sorted(classes - present["train"])
        if extra:
            raise DataError(
                f"the {split} split of {name!r} has {_names(extra, class_names)}, which train lacks; "
                "add training images of it or remove it"
            )
        missing = sorted(present["train"] - classes)
        if missing:
            warnings.warn(
                f"the {split} split of {name!r} has no images of {_names(missing, class_names)}", stacklevel=2
            )
    unused = sorted(set(range(len(class_names))) - present["train"])
    if unused:
        warnings.warn(f"the train split of {name!r} has no images of {_names(unused, class_names)}", stacklevel=2)


def _names(classes: list[int], class_names: tuple[str, ...]) -> str:
    shown = ", ".join(repr(class_names[c]) for c in classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{'class' if len(classes) == 1 else f'{len(classes)} classes:'} {shown}"


def _hold_out(labels: npt.NDArray[np.int64], indices: Indices, share: float, draw: np.random.Generator) -> Indices:
    """Draw ``share`` of every class: at least one image, but never the last of a class."""
    held = []
    for members in _by_class(labels, indices):
        count = min(max(1, round(len(members) * share)), len(members) - 1)
        held.append(draw.permutation(members)[:count])
    return np.sort(np.concatenate(held))


def _limited(
    labels: npt.NDArray[np.int64], splits: dict[str, Indices], limit: int, draw: np.random.Generator, name: str
) -> dict[str, Indices]:
    classes = len(np.unique(labels[splits["train"]]))
    if limit < classes:
        raise ConfigError(
            f"limit is {limit}, but {name!r} has {classes} classes; take at least {classes} (one image per class)"
        )
    balanced = _draw_counts(labels, splits["train"], _even_counts, limit, draw)
    return {
        split: balanced if split == "train" else _draw_counts(labels, indices, _shared_counts, limit, draw)
        for split, indices in splits.items()
    }


def _draw_counts(
    labels: npt.NDArray[np.int64],
    indices: Indices,
    counts: Callable[[npt.NDArray[np.int64], int], npt.NDArray[np.int64]],
    limit: int,
    draw: np.random.Generator,
) -> Indices:
    members = _by_class(labels, indices)
    wanted = counts(np.array([len(m) for m in members]), min(limit, len(indices)))
    return np.sort(np.concatenate([draw.permutation(m)[:n] for m, n in zip(members, wanted, strict=True)]))


def _even_counts(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Spread ``total`` over the classes as evenly as their sizes allow."""
    counts = np.zeros_like(sizes)
    while total:
        open_classes = np.flatnonzero(counts < sizes)
        each = total // len(open_classes)
        if each == 0:  # fewer are left than classes: one each for the first ones
            counts[open_classes[:total]] += 1
            break
        more = np.minimum(each, (sizes - counts)[open_classes])
        counts[open_classes] += more
        total -= int(more.sum())
    return counts


def _shared_counts(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Spread ``total`` over the classes in proportion to their sizes (largest remainders)."""
    exact = sizes * (total / sizes.sum())
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return counts


def _by_class(labels: npt.NDArray[np.int64], indices: Indices) -> list[Indices]:
    own = labels[indices]
    order = np.argsort(own, kind="stable")
    return list(np.split(indices[order], np.flatnonzero(np.diff(own[order])) + 1))
