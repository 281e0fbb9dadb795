"""``cifar10``: 60,000 color images of 32 px in 10 classes (Krizhevsky 2009).

The *binary* version of the archive is read. torchvision's pickled files of the same images are not, since unpickling
a file runs its code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pmae.data.cache import cache_dir
from pmae.data.download import Remote, fetch, warn_unless_official
from pmae.data.source import Listing, Request, Source, read_rows
from pmae.data.sources.archives import tar_files
from pmae.errors import DataError

BINARY = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)
PICKLED = ("cifar-10-batches-py", "cifar-10-python.tar.gz")  # torchvision's
FOLDER = "cifar-10-batches-bin"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def find(request: Request) -> Source:
    """Find the binary files in the root, unpacked or as an archive; else download the archive.

    Raises:
        DataError: The root holds only torchvision's pickled files.
    """
    root = request.root or cache_dir() / "downloads"
    if (root / FOLDER).is_dir():
        files = tuple(sorted((root / FOLDER).glob("*.bin")))
        return Source("cifar10", files, lambda: _list((p.name, p.read_bytes()) for p in files))
    pickled = next((root / name for name in PICKLED if (root / name).exists()), None)
    if pickled is not None and not (root / BINARY.filename).is_file():
        raise DataError(
            f"{pickled} is torchvision's pickled CIFAR-10, which is not read, as unpickling a file runs its code. Put "
            f"{BINARY.filename} from {BINARY.url} into {root}, or name another root (--data-root) to download it "
            "there, or in Python pass the datasets themselves: load_images({'train': CIFAR10(root), 'test': "
            "CIFAR10(root, train=False)}) with torchvision.datasets.CIFAR10"
        )
    archive = fetch(BINARY, root, progress=request.progress)
    return Source("cifar10", (archive,), lambda: _list_archive(archive))


def _list_archive(archive: Path) -> Listing:
    warn_unless_official(archive, BINARY)
    return _list(tar_files(archive))


def _list(files: Iterator[tuple[str, bytes]]) -> Listing:
    batches: dict[str, Batch] = {}
    for path, data in files:
        name = path.rsplit("/", 1)[-1]
        stem = name.removesuffix(".bin")
        if name.endswith(".bin") and any(stem in names for names in BATCHES.values()):
            batches[stem] = parse_binary(name, data)
    missing = [name for names in BATCHES.values() for name in names if name not in batches]
    if missing:
        raise DataError(f"CIFAR-10 is incomplete: {', '.join(missing)} missing; remove the files to download them")
    ordered = [batches[name] for names in BATCHES.values() for name in names]
    images, labels = (np.concatenate(parts) for parts in zip(*ordered, strict=True))
    train = sum(len(batches[name][1]) for name in BATCHES["train"])
    splits = {"train": np.arange(train), "test": np.arange(train, len(labels))}
    return Listing(labels, CLASS_NAMES, splits, read_rows(images, "cifar10"))


def parse_binary(name: str, data: bytes) -> Batch:
    """Parse rows <label><red><green><blue> to images uint8 (N, 32, 32, 3) and labels int64 (N,)."""
    if not data or len(data) % (1 + PIXELS):
        raise DataError(f"{name} has {len(data):,} bytes, not a multiple of {1 + PIXELS}; it is truncated: remove it")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, 1 + PIXELS)
    planes, labels = rows[:, 1:], rows[:, 0]
    if labels.max(initial=0) >= len(CLASS_NAMES):
        raise DataError(f"{name} has label {labels.max()}, CIFAR-10 has 10 classes; the file is corrupted: remove it")
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int64)
