"""Small data sets made on the spot, in the layouts that the sources read."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(number: int, size: int = 8, channels: int = 3) -> np.ndarray:
    """Random uint8 (size, size, channels) that ``number`` identifies."""
    return np.random.default_rng(number).integers(0, 256, (size, size, channels), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The array (H, W, C) as an image file."""
    out = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(out, kind, **options)
    return out.getvalue()


def write_folder(root: Path, counts: dict[str, int], first: int = 0, size: int = 8, channels: int = 3) -> Path:
    """``counts``: class name -> number of PNG files; image numbers run on from ``first``."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03}.png").write_bytes(encoded(pixels(first + i, size, channels)))
        first += count
    return root


def write_parquet(
    path: Path,
    labels: Sequence[Any],
    images: Sequence[bytes | None] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    class_names: Sequence[str] | None = None,
    row_group_size: int = 5,
) -> Path:
    """A file in the Hugging Face layout; image i has the pixels of number i."""
    images = [encoded(pixels(i)) for i in range(len(labels))] if images is None else images
    struct = pa.array(
        [{"bytes": b, "path": None} for b in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({columns[0]: struct, columns[1]: pa.array(labels)})
    if class_names is not None:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": list(class_names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def medmnist_arrays(
    train: int = 20, val: int = 6, test: int = 8, size: int = 28, channels: int = 1
) -> dict[str, np.ndarray]:
    """Keys of the MedMNIST layout, two classes in turn."""
    arrays = {}
    for number, (split, count) in enumerate({"train": train, "val": val, "test": test}.items()):
        images = np.stack([pixels(1000 * number + i, size, channels) for i in range(count)])
        arrays[f"{split}_images"] = images[..., 0] if channels == 1 else images
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    return arrays
