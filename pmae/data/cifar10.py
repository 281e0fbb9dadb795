"""``cifar10``: 60,000 colour images of 32 px in 10 classes (Krizhevsky 2009).

Downloaded is the *binary* version of the same images that torchvision unpickles: it is plain bytes, so nothing that
came from the web is ever unpickled. torchvision's files are read too where they are already there, by walking
through the pickle's opcodes without executing any.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pmae.data.archives import tar_files
from pmae.data.cache import cache_dir
from pmae.data.download import Remote, fetch, warn_unless_official
from pmae.data.source import Listing, Request, Source, read_rows
from pmae.errors import DataError

BINARY = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)
PYTHON = Remote(  # torchvision's; never downloaded
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def find(request: Request) -> Source:
    """The files in the root: either version, as an archive or unpacked; else the binary archive is downloaded."""
    root = request.root or cache_dir() / "downloads"
    for folder, suffix in (("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", "")):
        if (root / folder).is_dir():
            return _unpacked(root / folder, suffix)
    there = next((remote for remote in (BINARY, PYTHON) if (root / remote.filename).is_file()), BINARY)
    archive = fetch(there, root, progress=request.progress)
    return Source("cifar10", (archive,), lambda: _list_archive(archive, there))


def _unpacked(folder: Path, suffix: str) -> Source:
    files = tuple(folder / f"{name}{suffix}" for names in BATCHES.values() for name in names)
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise DataError(f"CIFAR-10 is incomplete: there is no {', '.join(missing)}; remove {folder}")
    return Source("cifar10", files, lambda: _list((p.name, p.read_bytes()) for p in files))


def _list_archive(archive: Path, remote: Remote) -> Listing:
    warn_unless_official(archive, remote)
    return _list(tar_files(archive))


def _list(files: Iterator[tuple[str, bytes]]) -> Listing:
    batches: dict[str, Batch] = {}
    for path, data in files:
        name = path.rsplit("/", 1)[-1]
        stem = name.removesuffix(".bin")
        if any(stem in names for names in BATCHES.values()):
            batches[stem] = parse_binary(name, data) if name.endswith(".bin") else parse_python(name, data)
    missing = [name for names in BATCHES.values() for name in names if name not in batches]
    if missing:
        raise DataError(f"CIFAR-10 is incomplete: there is no {', '.join(missing)}; remove the files to download them")
    ordered = [batches[name] for names in BATCHES.values() for name in names]
    images, labels = (np.concatenate(parts) for parts in zip(*ordered, strict=True))
    train = sum(len(batches[name][1]) for name in BATCHES["train"])
    splits = {"train": np.arange(train), "test": np.arange(train, len(labels))}
    return Listing(labels, CLASS_NAMES, splits, read_rows(images, "cifar10"))


def parse_binary(name: str, data: bytes) -> Batch:
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,) of rows <label><red><green><blue>."""
    if not data or len(data) % (1 + PIXELS):
        raise DataError(f"{name} has {len(data):,} bytes, no multiple of {1 + PIXELS}; it is cut short: remove it")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, 1 + PIXELS)
    return _batch(name, rows[:, 1:], rows[:, 0])


def parse_python(name: str, data: bytes) -> Batch:
    """The same from a pickled batch, its opcodes read and none executed.

    The pixels are the longest byte string in it, the labels the integers between the key ``labels`` and what
    follows them.
    """
    pixels: str | bytes | bytearray = b""
    labels: list[int] = []
    at_labels = False
    try:
        value: Any
        for opcode, value, _ in pickletools.genops(io.BytesIO(data)):
            if isinstance(value, (str, bytes, bytearray)):
                at_labels = value in ("labels", b"labels")
                pixels = max(pixels, value, key=len)
            elif at_labels and opcode.name in INTEGERS:
                labels.append(int(value))
        # Python 2 wrote bytes as text; Latin-1 maps every byte to itself.
        raw = pixels.encode("latin-1") if isinstance(pixels, str) else bytes(pixels)
    except (ValueError, EOFError, IndexError) as error:
        raise DataError(f"{name} is no CIFAR-10 batch ({error}); remove it") from error
    if not labels or len(raw) != PIXELS * len(labels):
        raise DataError(f"{name} holds {len(labels)} labels and {len(raw):,} bytes of pixels; remove it")
    return _batch(name, np.frombuffer(raw, dtype=np.uint8), np.array(labels))


def _batch(name: str, planes: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]) -> Batch:
    if labels.max(initial=0) >= len(CLASS_NAMES):
        raise DataError(f"{name} has label {labels.max()}, CIFAR-10 has 10 classes; the file is damaged: remove it")
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int64)
