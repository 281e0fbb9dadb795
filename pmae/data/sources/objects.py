"""Images in memory: arrays, tensors, torch datasets and Hugging Face datasets.

They are recognized by their attributes, not by their class, so that neither torch nor ``datasets`` is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pmae.data.decode import MAX_PIXELS, Pixels, UnreadableError, pixels_of
from pmae.data.imageset import UNLABELED, ImageSet
from pmae.data.source import SPLIT_OF, Listing, Payload, Source, join_parts, name_labels, read_each
from pmae.data.sources.parquet import IMAGE_COLUMNS, LABEL_COLUMNS, choose_column
from pmae.errors import ConfigError, DataError

ALLOWED = (
    "give (images, labels) or images as arrays or tensors, a torch Dataset, a Hugging Face dataset, or a mapping from "
    "split names (train, val, test) to those"
)
BLOCK = 1024

Raw = npt.NDArray[Any]


@dataclass(frozen=True)
class Part:
    """One split: ``count`` images, raw ``labels`` (N,) or None, and class names if the source has some."""

    name: str
    count: int
    read: Callable[[int], Payload]
    labels: Raw | None = None
    class_names: tuple[str, ...] = ()


def find_object(source: Any) -> Source:
    """Return the source for images in memory. It has no files, so it is not cached."""
    if isinstance(source, ImageSet):
        rows = read_each(source.images.__getitem__, source.name)
        return Source(source.name, (), lambda: Listing(source.labels, source.class_names, dict(source.splits), rows))
    if isinstance(source, Mapping):
        parts = _split_parts(source)
        name = next(iter(parts.values())).name
    else:
        part = _part(source)
        parts, name = {"train": part}, part.name
    return Source(name, (), lambda: _list(parts, name))


def describe_object(value: Any) -> str:
    """Return the type and shape of a value for a message; of containers never the content."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{getattr(value, 'dtype', type(value).__name__)} array of shape {tuple(int(n) for n in shape)}"
    text = repr(value) if isinstance(value, str | int | float | bool | type(None)) else ""
    return text if 0 < len(text) <= 80 else f"a {type(value).__name__}"


def to_uint8(images: Any, name: str = "array") -> Pixels:
    """Convert images to uint8 (N, H, W, C); DataError for another shape, type or range.

    They are (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3: uint8, whole numbers in 0..255 or floats in [0, 1].
    If the second and the last axis could both be channels, tensors are channel-first and arrays channel-last.
    """
    is_tensor = hasattr(images, "detach")
    array = np.asarray(images.detach().cpu() if is_tensor else images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not {array.shape[1], array.shape[3]} & {1, 3}:
        raise DataError(
            f"the images of {name!r} are a {describe_object(images)}; they must be (N, H, W), (N, H, W, C) or "
            "(N, C, H, W) with C 1 or 3"
        )
    if not len(array):
        raise DataError(f"{name!r} holds no images")
    if array.shape[1] in (1, 3) and (is_tensor or array.shape[3] not in (1, 3)):
        array = array.transpose(0, 2, 3, 1)
    return array if array.dtype == np.uint8 else _scaled(array, name)


def _scaled(array: Raw, name: str) -> Pixels:
    if array.dtype.kind not in "fiu":
        raise DataError(f"the images of {name!r} are {array.dtype}; they must be uint8, or floats in [0, 1]")
    low, high = array.min(), array.max()
    is_float, top = array.dtype.kind == "f", 1 if array.dtype.kind == "f" else 255
    if not (low >= 0 and high <= top):  # NaN as well
        raise DataError(
            f"the images of {name!r} are {array.dtype} from {low:.4g} to {high:.4g}; they must be uint8, or floats in "
            "[0, 1]: undo a normalization, or convert levels 0..255 by images.round().astype('uint8')"
        )
    result = np.empty(array.shape, dtype=np.uint8)
    for start in range(0, len(array), BLOCK):
        block = array[start : start + BLOCK]
        result[start : start + BLOCK] = np.round(block.astype(np.float64) * 255) if is_float else block
    return result


def to_labels(labels: Any, count: int, name: str) -> Raw:
    """Convert labels to an array (N,) of whole numbers or text; DataError if that fails or ``count`` differs."""
    values = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iubU":
        raise DataError(
            f"the labels of {name!r} are a {describe_object(values)}; they must be whole numbers or text, one per image"
        )
    if len(values) != count:
        raise DataError(f"{name!r} has {count} images, but {len(values)} labels; give one label per image")
    return values.astype(np.int64) if values.dtype.kind == "b" else values


def _part(source: Any) -> Part:
    if isinstance(source, tuple) and len(source) == 2:
        images = _part(source[0])
        return Part(images.name, images.count, images.read, to_labels(source[1], images.count, images.name))
    if isinstance(source, np.ndarray) or (hasattr(source, "detach") and hasattr(source, "numpy")):
        array = to_uint8(source)
        return Part("array", len(array), lambda i: array[i])
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _hugging_face(source)
    is_sequence = hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str | bytes)
    if not is_sequence or hasattr(source, "columns") or hasattr(source, "dtype"):  # also a table, an h5py dataset
        way_out = "pass its dataset, loader.dataset" if hasattr(source, "batch_size") else ALLOWED
        raise ConfigError(f"source is {describe_object(source)}; {way_out}")
    return _indexed(source)


def _hugging_face(source: Any) -> Part:
    columns, features = list(source.column_names), source.features or {}
    kinds = {column: type(features.get(column)).__name__ for column in columns}
    image, label = (
        choose_column(usual, [c for c in columns if kinds[c] == kind], [c for c in columns if c in usual])
        for usual, kind in ((IMAGE_COLUMNS, "Image"), (LABEL_COLUMNS, "ClassLabel"))
    )
    name = _name(getattr(getattr(source, "info", None), "dataset_name", None) or "dataset")
    if image is None:
        raise DataError(
            f"{name!r} has no image column; its columns: {', '.join(columns)}. Rename one to {IMAGE_COLUMNS[0]!r}"
        )
    count = len(source)
    labels = None if label is None else to_labels(list(source[label]), count, name)
    class_names = tuple(map(str, getattr(features.get(label), "names", None) or ()))
    return Part(name, count, lambda i: _image(source[i][image], name, i), labels, class_names)


def _indexed(source: Any) -> Part:
    """A torch Dataset or a sequence: items are images or (image, label)."""
    count, name = len(source), _name("images" if isinstance(source, list | tuple) else type(source).__name__)
    if not count:
        raise DataError(f"{name!r} holds no images")
    paired = isinstance(_item(source, 0, name), tuple | list)
    labels = None
    if paired:
        known = next((v for v in (getattr(source, n, None) for n in ("targets", "labels")) if v is not None), None)
        usable = known is not None and len(known) == count
        labels = to_labels(known if usable else [_label(source, i, name) for i in range(count)], count, name)
    classes = getattr(source, "classes", None)
    class_names = tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()

    def read(i: int) -> Payload:
        item = _item(source, i, name)
        return _image(item[0] if paired else item, name, i)

    return Part(name, count, read, labels, class_names)


def _item(source: Any, i: int, name: str) -> Any:
    try:
        return source[i]
    except Exception as error:  # the user's own code may raise anything
        raise DataError(f"{name!r}: item {i} cannot be read ({type(error).__name__}: {error})") from error


def _label(source: Any, i: int, name: str) -> int | str:
    item = _item(source, i, name)
    label: Any = item[1] if len(item) > 1 else None
    label = label.item() if hasattr(label, "item") and np.ndim(label) == 0 else label
    if not isinstance(label, int | str):
        raise DataError(f"{name!r}: the label of item {i} is {describe_object(label)}; it must be a number or text")
    return label if isinstance(label, str) else int(label)


def _image(value: Any, name: str, i: int) -> Payload:
    if isinstance(value, bytes):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    if hasattr(value, "convert") and hasattr(value, "size"):  # PIL
        try:
            return pixels_of(value)
        except (OSError, ValueError) as error:
            raise UnreadableError(f"{name}, image {i} cannot be read ({error})") from error
    if len(getattr(value, "shape", ())) in (2, 3):
        pixels = to_uint8(value[None], f"{name}, image {i}")[0]
        if pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS:
            return pixels
    raise DataError(
        f"{name}, image {i} is {describe_object(value)}; it must be a PIL image, or an array or tensor (H, W), "
        "(H, W, C) or (C, H, W)"
    )


def _split_parts(source: Mapping[Any, Any]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for key, value in source.items():
        split = SPLIT_OF.get(str(key).lower())
        if split is None or split in parts:
            raise ConfigError(f"source has the key {str(key)[:40]!r}; the keys must be train, val and test, once each")
        parts[split] = _part(value)
    if "train" not in parts:
        raise ConfigError(f"source has the splits {', '.join(map(str, source)) or 'none'}; 'train' is missing")
    return parts


def _list(parts: dict[str, Part], name: str) -> Listing:
    splits, read = join_parts([(split, part.count, read_each(part.read, part.name)) for split, part in parts.items()])
    known = [part.labels for part in parts.values() if part.labels is not None]
    if not known:
        return Listing(np.zeros(sum(part.count for part in parts.values()), np.int64), UNLABELED, splits, read)
    if len(known) < len(parts):
        raise DataError(f"only some splits of {name!r} have labels; give all of them labels, or none")
    class_names = next((part.class_names for part in parts.values() if part.class_names), ())
    return Listing(*name_labels(np.concatenate(known), class_names, repr(name)), splits, read)


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", str(text).lower()).strip("-")[:40] or "dataset"
