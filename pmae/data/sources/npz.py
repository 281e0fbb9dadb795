"""``npz:PATH``: one NumPy archive in the MedMNIST layout, ``{train,val,test}_{images,labels}``.

``train_*`` is required; a missing ``val`` or ``test`` pair is held out of train. Images are uint8 (N, H, W) or
(N, H, W, C), labels whole numbers (N,) or (N, 1). Nothing is unpickled: object arrays are refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pmae.data.imageset import Indices
from pmae.data.source import Listing, Payload, Request, Source, broken_as, encode_labels, join_parts
from pmae.errors import DataError

SPLITS = ("train", "val", "test")
AGAIN = "copy or download the file again"
MAX_LABEL_BYTES = 1 << 30
MAX_COMPRESSION = 500  # deflate reaches about 1030 to 1, real images less than 20


def find(request: Request) -> Source:
    """Find the archive at the request's path."""
    path = request.path
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.glob("*.npz"))[:10]) or "it has no .npz file"
        raise DataError(f"{path} does not exist; it is a folder, name one of its files: {inside}")
    if not path.is_file():
        raise DataError(f"{path} does not exist; give npz:PATH the path of a .npz file")
    return Source(path.stem, (path,), lambda: list_npz(path))


def list_npz(path: Path, class_names: tuple[str, ...] | None = None) -> Listing:
    """Read labels and splits of a MedMNIST archive; class names default to the values of the labels."""
    with _opened(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        present = _present_splits(path, members)
        labels = [_labels(archive, path, members, split) for split in present]
        for split, own in zip(present, labels, strict=True):
            count = _image_header(archive, path, members[f"{split}_images"])[0][0]
            if count != len(own):
                raise DataError(f"{path}: {split}_images holds {count} images, but {split}_labels {len(own)} labels")
    readers = [partial(_read_images, path, members[f"{split}_images"]) for split in present]
    splits, read = join_parts(list(zip(present, map(len, labels), readers, strict=True)))
    every = np.concatenate(labels)
    if class_names is None and every.min(initial=0) >= 0:
        every, class_names = encode_labels(every)
    if len(every) and not 0 <= every.min() <= every.max() < len(class_names or ()):
        allowed = f"from 0 to {len(class_names) - 1}" if class_names else "of 0 and above"
        raise DataError(f"{path}: labels run from {every.min()} to {every.max()}; they must be class numbers {allowed}")
    return Listing(labels=every, class_names=class_names or (), splits=splits, read=read)


def _opened(path: Path) -> zipfile.ZipFile:
    with broken_as(f"{path} is not a readable npz archive", AGAIN):
        return zipfile.ZipFile(path)


def _present_splits(path: Path, members: dict[str, str]) -> list[str]:
    present = [s for s in SPLITS if f"{s}_images" in members or f"{s}_labels" in members]
    wanted = [f"{s}_{kind}" for s in dict.fromkeys(["train", *present]) for kind in ("images", "labels")]
    missing = [key for key in wanted if key not in members]
    if missing:
        raise DataError(
            f"{path} has no {', '.join(missing)}; its keys are {', '.join(members) or 'none'}. Expected are "
            "train_images and train_labels, and the same for val and test"
        )
    return present


def _labels(archive: zipfile.ZipFile, path: Path, members: dict[str, str], split: str) -> npt.NDArray[np.int64]:
    member = members[f"{split}_labels"]
    with _member(archive, path, member) as file:
        shape, dtype = _header(file, path, member)
        if dtype.kind not in "iu" or len(shape) > 2:
            raise DataError(f"{path}: {split}_labels is {dtype} {shape}; it must be whole numbers (N,) or (N, 1)")
        if len(shape) == 2 and shape[1] != 1:
            raise DataError(
                f"{path}: {split}_labels has {shape[1]} labels per image (multi-label); the probes here score one "
                "label per image by accuracy, so choose a set with one, or save a single column"
            )
        if np.prod(shape) * dtype.itemsize > MAX_LABEL_BYTES:
            raise DataError(f"{path}: {split}_labels declares {shape}, too many to be labels; the file is corrupted")
        raw = _exactly(file, int(np.prod(shape)) * dtype.itemsize, path, member)
    return np.frombuffer(raw, dtype=dtype).reshape(-1).astype(np.int64)


def _image_header(archive: zipfile.ZipFile, path: Path, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with _member(archive, path, member) as file:
        shape, dtype = _header(file, path, member)
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        hint = "; convert images in 0..1 by (images * 255).round().astype('uint8')" if dtype.kind == "f" else ""
        raise DataError(
            f"{path}: {member} is {dtype} {shape}; images must be uint8 (N, H, W) or (N, H, W, 1 or 3){hint}"
        )
    info = archive.getinfo(member)
    if info.file_size > MAX_COMPRESSION * max(info.compress_size, 1):
        raise DataError(
            f"{path}: {member} unpacks {info.compress_size:,} bytes to {info.file_size:,}; "
            "refused as a decompression bomb"
        )
    return shape, dtype


def _read_images(path: Path, member: str, indices: Indices) -> Iterator[tuple[str, Payload]]:
    """Yield images one by one: the archive may be larger than memory."""
    if not len(indices):
        return
    with _opened(path) as archive, _member(archive, path, member) as file:
        shape, _ = _header(file, path, member)
        size, row = int(np.prod(shape[1:])), -1
        for index in indices:
            while row < index:  # images in between are read over
                raw, row = _exactly(file, size, path, member), row + 1
            pixels = np.frombuffer(raw, dtype=np.uint8).reshape(shape[1:])
            yield f"{path}, {member}, image {index}", pixels[..., None] if pixels.ndim == 2 else pixels


def _member(archive: zipfile.ZipFile, path: Path, member: str) -> BinaryIO:
    with broken_as(f"{path}: {member} cannot be read", AGAIN):
        return archive.open(member)  # type: ignore[return-value]


def _header(file: BinaryIO, path: Path, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with broken_as(f"{path}: {member} is not a NumPy array", AGAIN):
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{path}: {member} is a pickled object array, which is never opened; save it as numbers")
    if fortran and len(shape) > 1:
        raise DataError(f"{path}: {member} is in Fortran order; save it with np.ascontiguousarray")
    if any(n < 0 for n in shape):
        raise DataError(f"{path}: {member} declares the shape {shape}; the file is corrupted: {AGAIN}")
    return shape, dtype


def _exactly(file: BinaryIO, size: int, path: Path, member: str) -> bytes:
    with broken_as(f"{path}: {member} is corrupted", AGAIN):
        raw = file.read(size)
    if len(raw) != size:
        raise DataError(f"{path}: {member} is truncated; {AGAIN}")
    return raw
