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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pmae.data.imageset import Indices
from pmae.data.source import (
    SPLIT_NAMES,
    SPLIT_OF,
    Listing,
    Payload,
    Reader,
    Request,
    Source,
    check_labels,
    join_parts,
    name_labels,
    reraise_as,
)
from pmae.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "img", "images", "pixel_values", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")
ROWS_AT_ONCE = 1024
AGAIN = "copy or download it again"


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
    raw: list[npt.NDArray[Any]] = []
    parts: list[tuple[str, int, Reader]] = []
    class_names: tuple[str, ...] = ()
    for split, path in ((split, path) for split, paths in by_split.items() for path in paths):
        image, label, names = _columns(path)
        class_names = class_names or names
        raw.append(_labels(path, label))
        parts.append((split, len(raw[-1]), partial(_read_images, path, image)))
    for own, path in zip(raw, (path for paths in by_split.values() for path in paths), strict=True):
        check_labels(own, class_names, str(path))
    return Listing(*name_labels(np.concatenate(raw), class_names, str(base)), *join_parts(parts))


def _by_split(base: Path, files: list[Path]) -> dict[str, list[Path]]:
    named = {path: _split_of(path.absolute().relative_to(base.absolute())) for path in files}
    if not any(named.values()):
        return {"train": files}
    unnamed = [path.name for path, split in named.items() if split is None]
    if unnamed:
        warnings.warn(f"left out, as their names contain no split: {', '.join(unnamed)}", stacklevel=2)
    by_split = {split: [path for path in files if named[path] == split] for split in SPLIT_NAMES}
    present = {split: paths for split, paths in by_split.items() if paths}
    return {"train": next(iter(present.values()))} if len(present) == 1 else present


def _split_of(path: Path) -> str | None:
    """Return the split that the name of the file, or else of a folder above it, begins with."""
    for part in (path.stem, *reversed(path.parts[:-1])):
        word = re.split(r"[-_.]", part.lower().removeprefix("partial-"))[0]
        if word in SPLIT_OF:
            return SPLIT_OF[word]
    return None


def _opened(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    with reraise_as(f"{path} is not a readable Parquet file", AGAIN):
        return pq.ParquetFile(path)


def _columns(path: Path) -> tuple[str, str, tuple[str, ...]]:
    """Names of the image and the label column, and the class names in the schema (may be empty)."""
    with _opened(path) as file:
        schema = file.schema_arrow
    features = _features(schema)
    images = [f.name for f in schema if _is_image(f)]
    others = [f.name for f in schema if f.name not in images]
    kinds = {name: feature.get("_type") for name, feature in features.items()}
    image = choose_column(IMAGE_COLUMNS, [n for n in images if kinds.get(n) == "Image"], images)
    usual = [n for n in others if n in LABEL_COLUMNS]
    label = choose_column(LABEL_COLUMNS, [n for n in others if kinds.get(n) == "ClassLabel"], usual)
    if image is None or label is None:
        missing = "image column (a struct with bytes, or binary)" if image is None else "label column"
        there = ", ".join(f"{f.name} ({f.type})" for f in schema)
        wanted = " or ".join((IMAGE_COLUMNS if image is None else LABEL_COLUMNS)[:2])
        raise DataError(f"{path} has no {missing}; its columns: {there}. Name it {wanted}")
    names = features.get(label, {}).get("names")
    return image, label, tuple(map(str, names)) if isinstance(names, list) else ()


def choose_column(usual: tuple[str, ...], marked: list[str], others: list[str]) -> str | None:
    """The most usual name among the columns that metadata mark, or else among the others; None without any."""
    return min(marked or others, key=lambda name: usual.index(name) if name in usual else len(usual), default=None)


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


def _labels(path: Path, column: str) -> npt.NDArray[Any]:
    import pyarrow.types as types

    with _opened(path) as file, reraise_as(f"{path} cannot be read", AGAIN):
        labels = file.read(columns=[column]).column(0)
        if types.is_dictionary(labels.type):
            labels = labels.cast(labels.type.value_type)
        kind = labels.type
        if types.is_list(kind) or types.is_large_list(kind):
            raise DataError(
                f"{path}: column {column!r} has several labels per image (multi-label); the probes here score one "
                "label per image by accuracy, so choose another column or set"
            )
        if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
            raise DataError(f"{path}: column {column!r} is {kind}; labels must be whole numbers or text")
        if labels.null_count:
            raise DataError(
                f"{path}: {labels.null_count} of {len(labels)} labels in {column!r} are missing; remove them"
            )
        return np.array(labels.to_pylist(), np.int64 if types.is_integer(kind) else np.str_)


def _read_images(path: Path, column: str, rows: Indices) -> Iterator[tuple[str, Payload]]:
    """Yield the encoded images of increasing ``rows``; row groups without any are not read."""
    import pyarrow as pa

    if not len(rows):
        return
    with _opened(path) as file, reraise_as(f"{path} cannot be read", AGAIN):
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
