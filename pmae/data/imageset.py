"""Images with labels and splits: :class:`ImageSet`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pmae.errors import DataError

Indices = npt.NDArray[np.int64]
UNLABELED: tuple[str, ...] = ("unlabelled",)  # class names of unlabeled images; the spelling is part of fingerprints


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Square uint8 images of one size with labels and splits.

    Attributes:
        images: uint8 (N, H, W, C), H = W, C 1 (gray) or 3 (color, RGB); usually a read-only memory map.
        labels: int64 (N,), each an index into ``class_names``.
        class_names: Names of the classes.
        splits: Split name (``train``, ``val``, ``test``) -> int64 indices into ``images``.
        name: Short name for tables, for example ``cifar10``.
        fingerprint: Hex hash of pixels, labels, class names and splits; computed if empty.

    Raises:
        DataError: Inconsistent shapes, types, labels or splits.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    splits: Mapping[str, Indices]
    name: str
    fingerprint: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "splits", {k: np.asarray(v, dtype=np.int64) for k, v in self.splits.items()})
        self._check()
        for name, indices in self.splits.items():
            if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
                raise DataError(f"split {name!r} of {self.name!r} points outside the {len(self)} images")
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", content_hash(self))

    def _check(self) -> None:
        images, labels = (
            f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
            for array in (self.images, self.labels)
        )
        array: Any = self.images
        if getattr(array, "dtype", None) != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
            raise DataError(f"images of {self.name!r} are {images}; they must be uint8 (N, H, W, C) with C 1 or 3")
        if array.shape[1] != array.shape[2]:
            raise DataError(
                f"images of {self.name!r} are {array.shape[2]}x{array.shape[1]} px; they must be square: "
                "load them with image_size=PIXELS, which crops to the square and resizes"
            )
        if getattr(self.labels, "dtype", None) != np.int64 or self.labels.shape != (len(array),):
            raise DataError(f"labels of {self.name!r} are {labels}; they must be int64 ({len(array)},)")
        if self.labels.size and not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            raise DataError(
                f"labels of {self.name!r} run from {self.labels.min()} to {self.labels.max()}, but there are "
                f"{len(self.class_names)} class names; labels must be indices into the class names"
            )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(indices):,}" for split, indices in self.splits.items()) or "no splits"
        classes = _count(len(self.class_names), "class", "classes") if self.is_labeled else "no labels"
        channels = _count(self.channels, "channel", "channels")
        return f"ImageSet({self.name!r}, {len(self)} images, {self.image_size} px, {channels}, {classes}; {sizes})"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_labeled(self) -> bool:
        """Whether the images have labels; only then can they be probed."""
        return self.class_names != UNLABELED

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self.images.shape[1])

    @property
    def channels(self) -> int:
        """1 (gray) or 3 (color)."""
        return int(self.images.shape[3])

    def indices(self, split: str) -> Indices:
        """Return the int64 indices of a split; raise DataError, which lists the splits, for an unknown name."""
        try:
            return self.splits[split]
        except KeyError:
            there = ", ".join(f"{k} ({len(v)} images)" for k, v in self.splits.items()) or "none"
            raise DataError(f"{self.name!r} has no split {split!r}; its splits: {there}") from None

    def split(self, name: str) -> ImageSet:
        """Return the images of one split as a set; pixels are copied only if they are not contiguous."""
        indices = self.indices(name)
        if len(self.splits) == 1 and _is_run(indices) and len(indices) == len(self):
            return self
        rows: Any = slice(indices[0], indices[-1] + 1) if _is_run(indices) and len(indices) else indices
        digest = hashlib.sha256(f"{self.fingerprint}:{name}".encode())
        digest.update(indices.astype("<i8").tobytes())
        return ImageSet(
            images=self.images[rows],
            labels=self.labels[rows],
            class_names=self.class_names,
            splits={name: np.arange(len(indices), dtype=np.int64)},
            name=self.name,
            fingerprint=digest.hexdigest(),
        )


def content_hash(images: ImageSet) -> str:
    """Return the hex SHA-256 of everything in an :class:`ImageSet` except its name."""
    digest = hashlib.sha256(repr((images.images.shape, images.class_names)).encode())
    for start in range(0, len(images), 4096):  # in blocks: a memory map may be larger than memory
        digest.update(np.ascontiguousarray(images.images[start : start + 4096]).data)
    digest.update(images.labels.astype("<i8").tobytes())
    for name in sorted(images.splits):
        digest.update(name.encode())
        digest.update(images.splits[name].astype("<i8").tobytes())
    return digest.hexdigest()


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _is_run(indices: Indices) -> bool:
    return bool(np.all(np.diff(indices) == 1))
