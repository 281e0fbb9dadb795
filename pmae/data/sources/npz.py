"""``npz:PATH``: one NumPy archive in the MedMNIST layout, ``{train,val,test}_{images,labels}``.

``train_*`` is required; a missing ``val`` or ``test`` pair is held out of train. Images are uint8 (N, H, W) or
(N, H, W, C), labels whole numbers (N,) or (N, 1). Nothing is unpickled: object arrays are refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pmae.data.imageset import Indices
from pmae.data.source import Listing, Payload, Request, Source, join_parts, name_labels, reraise_as
from pmae.errors import DataError

SPLITS = ("train", "val", "test")
MAX_LABEL_BYTES = 1 << 30
MAX_COMPRESSION = 500  # deflate reaches about 1030 to 1, real images less than 20


def find(request: Request) -> Source:
    """Find the archive at the request's path."""
    path = request.path
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}; give npz:PATH the path of a .npz file")
    return Source(path.stem, (path,), lambda: list_npz(path))


def list_npz(path: Path, class_names: tuple[str, ...] = ()) -> Listing:
    """Read labels and splits of a MedMNIST archive; class names default to the values of the labels."""
    with _opened(path) as archive:
        there = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    present = [s for s in SPLITS if s == "train" or f"{s}_images" in there or f"{s}_labels" in there]
    missing = [key for s in present for key in (f"{s}_images", f"{s}_labels") if key not in there]
    if missing:
        raise DataError(
            f"{path} has no {', '.join(missing)}; its keys are {', '.join(there) or 'none'}. Expected are "
            "train_images and train_labels, and the same for val and test"
        )
    labels = [_labels(path, f"{split}_labels") for split in present]
    for split, own in zip(present, labels, strict=True):
        count = _count_images(path, f"{split}_images", there[f"{split}_images"])
        if count != len(own):
            raise DataError(f"{path}: {split}_images holds {count} images, but {split}_labels {len(own)} labels")
    readers = [partial(_read_images, path, f"{split}_images") for split in present]
    splits, read = join_parts(list(zip(present, map(len, labels), readers, strict=True)))
    return Listing(*name_labels(np.concatenate(labels), class_names, str(path)), splits, read)


def _opened(path: Path) -> zipfile.ZipFile:
    with reraise_as(f"{path} is not a readable npz archive", "copy or download it again"):
        return zipfile.ZipFile(path)


@contextmanager
def _member(path: Path, key: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
    """An array, open after its header; whatever fails while it is open is a DataError."""
    broken = reraise_as(f"{path}: {key} is corrupted or truncated", "copy or download the file again")
    with _opened(path) as archive, broken, archive.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)  # type: ignore[arg-type]
        if dtype.hasobject:
            raise DataError(f"{path}: {key} is a pickled object array, which is never opened; save it as numbers")
        if fortran and len(shape) > 1:
            raise DataError(f"{path}: {key} is in Fortran order; save it with np.ascontiguousarray")
        if min(shape, default=0) < 0:
            raise ValueError(f"its shape is {shape}")
        yield file, shape, dtype


def _next(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The next numbers in the file, as ``shape``; NumPy raises if they are fewer."""
    return np.frombuffer(file.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def _labels(path: Path, key: str) -> npt.NDArray[np.int64]:
    with _member(path, key) as (file, shape, dtype):
        if dtype.kind not in "iu" or len(shape) > 2:
            raise DataError(f"{path}: {key} is {dtype} {shape}; it must be whole numbers (N,) or (N, 1)")
        if len(shape) == 2 and shape[1] != 1:
            raise DataError(
                f"{path}: {key} has {shape[1]} labels per image (multi-label); the probes here score one "
                "label per image by accuracy, so choose a set with one, or save a single column"
            )
        if np.prod(shape) * dtype.itemsize > MAX_LABEL_BYTES:
            raise ValueError(f"its shape is {shape}, too large for labels")
        return _next(file, shape, dtype).reshape(-1).astype(np.int64)


def _count_images(path: Path, key: str, member: zipfile.ZipInfo) -> int:
    with _member(path, key) as (_, shape, dtype):
        if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
            hint = "; convert images in 0..1 by (images * 255).round().astype('uint8')" if dtype.kind == "f" else ""
            raise DataError(
                f"{path}: {key} is {dtype} {shape}; images must be uint8 (N, H, W) or (N, H, W, 1 or 3){hint}"
            )
    if member.file_size > MAX_COMPRESSION * max(member.compress_size, 1):
        sizes = f"{member.compress_size:,} bytes to {member.file_size:,}"
        raise DataError(f"{path}: {key} unpacks {sizes}; refused as a decompression bomb")
    return shape[0]


def _read_images(path: Path, key: str, indices: Indices) -> Iterator[tuple[str, Payload]]:
    """Yield images one by one: the archive may be larger than memory."""
    if not len(indices):
        return
    with _member(path, key) as (file, shape, dtype):
        row = -1
        for index in indices:
            while row < index:  # images in between are read over
                pixels, row = _next(file, shape[1:], dtype), row + 1
            yield f"{path}, {key}, image {index}", pixels[..., None] if pixels.ndim == 2 else pixels
