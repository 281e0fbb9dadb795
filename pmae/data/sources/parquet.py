"""``parquet:PATH``: a file, a glob, or a folder of Parquet files in the Hugging Face image layout.

The image column is a struct {bytes, path} or binary, the label column whole numbers or text. Splits come from the names
of files (``train-00000-of-00001.parquet``) or folders; without them all images are training images. Class names come
from the ``huggingface`` metadata of the schema, else from the labels.
"""

from __future__ import annotations

import glob
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pmae.data.imageset import Indices
from pmae.data.source import SPLIT_OF, Listing, Payload, Request, Source, broken_as, encode_labels, join_parts
from pmae.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "img", "images", "pixel_values", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")
ROWS_AT_ONCE = 1024
AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Columns:
    """Names of the image and the label column, and the class names in the schema (may be empty)."""

    image: str
    label: str
    class_names: tuple[str, ...]


def find(request: Request) -> Source:
    """Find the Parquet files at the request's path."""
    path = request.path
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith("."))
    elif path.is_file():
        files = [path]
    else:
        files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not files:
        raise DataError(f"no Parquet files at {path}; give parquet:PATH a file, a glob or a folder of them")
    base = path if path.is_dir() else Path(os.path.commonpath([file.absolute().parent for file in files]))
    name = path.stem if len(files) == 1 and path.is_file() else base.resolve().name
    return Source(name or "parquet", tuple(files), lambda: _list(base, files))


def _list(base: Path, files: list[Path]) -> Listing:
    by_split = _by_split(base, files)
    ordered = [path for paths in by_split.values() for path in paths]
    columns = [_columns(path) for path in ordered]
    raw = [_labels(path, c.label) for path, c in zip(ordered, columns, strict=True)]
    labels, class_names = _encode(ordered, raw, columns)
    named = [split for split, paths in by_split.items() for _ in paths]
    readers = [partial(_read_images, path, c.image) for path, c in zip(ordered, columns, strict=True)]
    splits, read = join_parts(list(zip(named, map(len, raw), readers, strict=True)))
    return Listing(labels, class_names, splits, read)


def _by_split(base: Path, files: list[Path]) -> dict[str, list[Path]]:
    named = {path: _split_of(path.absolute().relative_to(base.absolute())) for path in files}
    if not any(named.values()):
        return {"train": files}
    unnamed = [path.name for path, split in named.items() if split is None]
    if unnamed:
        warnings.warn(f"left out, as their names contain no split: {', '.join(unnamed)}", stacklevel=2)
    by_split: dict[str, list[Path]] = {}
    for split in ("train", "val", "test"):
        if own := [path for path, named_split in named.items() if named_split == split]:
            by_split[split] = own
    if "train" not in by_split and len(by_split) == 1:
        return {"train": files}  # the source is a single split
    return by_split


def _split_of(path: Path) -> str | None:
    """Return the split that the name of the file, or else of a folder above it, begins with."""
    for part in (path.stem, *reversed(path.parts[:-1])):
        word = re.split(r"[-_.]", part.lower().removeprefix("partial-"))[0]
        if word in SPLIT_OF:
            return SPLIT_OF[word]
    return None


def _opened(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    with broken_as(f"{path} is not a readable Parquet file", AGAIN):
        return pq.ParquetFile(path)


def _columns(path: Path) -> Columns:
    with _opened(path) as file:
        schema = file.schema_arrow
    features = _features(schema)
    there = ", ".join(f"{f.name} ({f.type})" for f in schema)
    images = [f.name for f in schema if _is_image(f)]
    images = _preferred(images, [n for n in images if features.get(n, {}).get("_type") == "Image"], IMAGE_COLUMNS)
    if not images:
        raise DataError(
            f"{path} has no image column (a struct with bytes, or binary); its columns: {there}. "
            f"Name it {' or '.join(IMAGE_COLUMNS[:2])}"
        )
    others = [f.name for f in schema if f.name not in images]
    marked = [n for n in others if features.get(n, {}).get("_type") == "ClassLabel"]
    labels = _preferred([], marked, LABEL_COLUMNS) or [n for n in LABEL_COLUMNS if n in others]
    if not labels:
        raise DataError(f"{path} has no label column; its columns: {there}. Name it {' or '.join(LABEL_COLUMNS[:2])}")
    names = features.get(labels[0], {}).get("names")
    return Columns(images[0], labels[0], tuple(map(str, names)) if isinstance(names, list) else ())


def _preferred(candidates: list[str], marked: list[str], names: tuple[str, ...]) -> list[str]:
    """Return the columns marked in the metadata, or all candidates if none is, those with a usual name first."""
    pool = marked or candidates
    return sorted(pool, key=lambda n: names.index(n) if n in names else len(names))


def _is_image(column: pa.Field) -> bool:
    import pyarrow.types as types

    kind = column.type
    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the descriptions of columns in the ``huggingface`` metadata; empty if it is missing or malformed."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {k: v for k, v in features.items() if isinstance(v, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _labels(path: Path, column: str) -> pa.ChunkedArray:
    import pyarrow.types as types

    with _opened(path) as file, broken_as(f"{path} cannot be read", AGAIN):
        labels = file.read(columns=[column]).column(0)
    if types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    if types.is_list(labels.type) or types.is_large_list(labels.type):
        raise DataError(
            f"{path}: column {column!r} has several labels per image (multi-label); the probes here score one label "
            "per image by accuracy, so choose another column or set"
        )
    if not (types.is_integer(labels.type) or types.is_string(labels.type) or types.is_large_string(labels.type)):
        raise DataError(f"{path}: column {column!r} is {labels.type}; labels must be whole numbers or text")
    if labels.null_count:
        raise DataError(f"{path}: {labels.null_count} of {len(labels)} labels in {column!r} are missing; remove those")
    return labels


def _encode(
    files: list[Path], raw: list[pa.ChunkedArray], columns: list[Columns]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the labels as int64 indices into class names, and these."""
    values = np.concatenate([np.asarray(r.to_pylist()) if len(r) else np.zeros(0, np.int64) for r in raw])
    class_names = next((c.class_names for c in columns if c.class_names), ())
    if values.dtype.kind == "U" or (not class_names and values.min(initial=0) >= 0):
        return encode_labels(values)
    for path, r in zip(files, raw, strict=True):
        own = r.to_numpy()
        if len(own) and not 0 <= own.min() <= own.max() < len(class_names):
            way_out = "-1 usually means that labels are not public; leave this file out, for example by a glob"
            if own.min() >= 0:
                way_out = f"the metadata names {len(class_names)} classes: {', '.join(class_names[:10])}"
            raise DataError(
                f"{path}: labels run from {own.min()} to {own.max()}, which are not class numbers; {way_out}"
            )
    return values.astype(np.int64), class_names


def _read_images(path: Path, column: str, rows: Indices) -> Iterator[tuple[str, Payload]]:
    """Yield the encoded images of increasing ``rows``; row groups without any are not read."""
    import pyarrow as pa

    if not len(rows):
        return
    with _opened(path) as file, broken_as(f"{path} cannot be read", AGAIN):
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        for group in np.unique(np.searchsorted(ends, rows, side="right") - 1):
            row = int(ends[group])
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[int(group)], columns=[column]):
                low, high = np.searchsorted(rows, (row, row + batch.num_rows))
                encoded = batch.column(0)
                if isinstance(encoded, pa.StructArray):
                    encoded = encoded.field("bytes")
                for i in rows[low:high]:
                    payload = encoded[int(i) - row].as_py()
                    if payload is None:
                        raise DataError(f"{path}, row {i}: column {column!r} holds no image bytes; remove the row")
                    yield f"{path}, row {i}", payload
                row += batch.num_rows
