"""The sources with a name: ``digits``, ``cifar10``, ``tinyimagenet`` and the 2-D sets of MedMNIST.

Digits come with scikit-learn, the others are downloaded. Archives are read in place: nothing is written to disk, so
their names and links cannot do harm, and nothing is unpickled.
"""

from __future__ import annotations

import importlib.util
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmae.data.cache import cache_dir
from pmae.data.download import Remote, fetch, warn_unless_official
from pmae.data.imageset import Indices
from pmae.data.source import Listing, Payload, Request, Source, consecutive_splits, name_labels, read_each, reraise_as
from pmae.data.sources.npz import list_npz
from pmae.errors import ConfigError, DataError

MAX_MEMBER_BYTES = 1 << 28

MAX_DIGITS_SIZE = 256
DIGITS_FILE = Path("datasets", "data", "digits.csv.gz")  # in scikit-learn's folder

CIFAR10 = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CIFAR10_ROW = 1 + 3 * 32 * 32  # bytes of a label and an image

TINY_IMAGENET = Remote(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
TINY_IMAGENET_FOLDER = "tiny-imagenet-200"
TRAIN_IMAGE = re.compile(r"train/(n\d{8})/images/[^/]+\.JPEG")

MEDMNIST_SIZES = (28, 64, 128, 224)

ReadMembers = Callable[[Sequence[str]], Iterator[bytes | Path]]


def find_digits(request: Request) -> Source:
    """The digits of scikit-learn: 1,797 gray images of 8 px, their levels 0 to 16 spread over 0 to 255."""
    if request.image_size is not None and request.image_size > MAX_DIGITS_SIZE:
        raise ConfigError(
            f"image_size is {request.image_size}, but the digits have 8 pixels a side; give at most {MAX_DIGITS_SIZE}"
        )
    return Source("digits", (), _list_digits)


def _list_digits() -> Listing:
    """From scikit-learn's file, 64 pixels and a label per row, (1797, 65): importing its loader takes seconds."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(package.origin).parent / DIGITS_FILE
    if path.is_file():
        table = np.loadtxt(path, delimiter=",")
    else:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        table = np.column_stack([bunch.data, bunch.target])
    images = np.round(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Listing(
        labels=table[:, -1].astype(np.int64),
        class_names=tuple(str(d) for d in range(10)),
        splits={"train": np.arange(len(images), dtype=np.int64)},
        read=read_each(images.__getitem__, "digits"),
    )


def find_cifar10(request: Request) -> Source:
    """60,000 color images of 32 px in 10 classes (Krizhevsky 2009), from the *binary* files: unpacked or an archive.

    torchvision's pickled files of the same images are not read, since unpickling a file runs its code.
    """
    root = request.root or cache_dir() / "downloads"
    if (root / CIFAR10_FOLDER).is_dir():
        files = tuple(sorted((root / CIFAR10_FOLDER).glob("*.bin")))
        return Source("cifar10", files, lambda: _list_cifar10((p.name, p.read_bytes()) for p in files))
    archive = fetch(CIFAR10, root, progress=request.progress)

    def list_archive() -> Listing:
        warn_unless_official(archive, CIFAR10)
        return _list_cifar10(tar_files(archive))

    return Source("cifar10", (archive,), list_archive)


def _list_cifar10(files: Iterator[tuple[str, bytes]]) -> Listing:
    """Rows <label><red><green><blue> of the files ``NAME.bin`` as images uint8 (N, 32, 32, 3) and labels."""
    wanted = [f"{name}.bin" for names in CIFAR10_BATCHES.values() for name in names]
    data = {name: content for path, content in files if (name := path.rsplit("/", 1)[-1]) in wanted}
    missing = [name for name in wanted if name not in data]
    if missing:
        raise DataError(f"CIFAR-10 is incomplete: {', '.join(missing)} missing; remove the files to download them")
    for name, content in data.items():
        if not content or len(content) % CIFAR10_ROW:
            raise DataError(
                f"{name} has {len(content):,} bytes, not a multiple of {CIFAR10_ROW}; it is truncated: remove it"
            )
    rows = np.frombuffer(b"".join(data[name] for name in wanted), np.uint8).reshape(-1, CIFAR10_ROW)
    images = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    labels, class_names = name_labels(rows[:, 0], CIFAR10_CLASSES, "corrupted files of CIFAR-10")
    train = sum(len(data[f"{name}.bin"]) for name in CIFAR10_BATCHES["train"]) // CIFAR10_ROW
    splits = consecutive_splits({"train": train, "test": len(rows) - train})
    return Listing(labels, class_names, splits, read_each(images.__getitem__, "cifar10"))


def find_tinyimagenet(request: Request) -> Source:
    """200 ImageNet classes at 64 px, 500 training and 50 validation images each (Stanford CS231n).

    The labels of the official test split are not public, so the official validation split is the *test* split, as in
    the papers. An unpacked folder or an archive (any ``tiny-imagenet*.zip``) is read, else the archive is downloaded.
    """
    root = request.root or cache_dir() / "downloads"
    for folder in (root / TINY_IMAGENET_FOLDER, root):
        if (folder / "wnids.txt").is_file():
            return _unpacked_tiny(folder)
    there = [root / TINY_IMAGENET.filename, *sorted(root.glob("tiny-imagenet*.zip"))]
    archive = next((p for p in there if p.is_file()), None) or fetch(TINY_IMAGENET, root, progress=request.progress)
    return Source("tinyimagenet", (archive,), lambda: _packed_tiny(archive))


def _unpacked_tiny(folder: Path) -> Source:
    files = tuple(sorted(p for p in folder.rglob("*") if p.is_file()))
    names = [p.relative_to(folder).as_posix() for p in files]
    return Source(
        "tinyimagenet", files, lambda: _list_tiny(str(folder), names, lambda wanted: (folder / name for name in wanted))
    )


def _packed_tiny(path: Path) -> Listing:
    warn_unless_official(path, TINY_IMAGENET)
    with open_zip(path) as archive:
        every = archive.namelist()
    start = next((n.removesuffix("wnids.txt") for n in every if n.endswith("wnids.txt")), f"{TINY_IMAGENET_FOLDER}/")

    def read(names: Sequence[str]) -> Iterator[bytes | Path]:
        with open_zip(path) as archive:
            for name in names:
                yield read_zip_member(archive, start + name)

    return _list_tiny(str(path), [name.removeprefix(start) for name in every], read)


def _list_tiny(where: str, present: list[str], read_members: ReadMembers) -> Listing:
    """The listing of a folder or archive that holds the files ``present``."""
    texts = ("words.txt", "val/val_annotations.txt")
    for name in texts:
        if name not in present:
            raise DataError(f"{where} is not TinyImageNet: {name} is missing; remove it to download the archive")
    contents = (text.read_bytes() if isinstance(text, Path) else text for text in read_members(texts))
    words, annotations = (text.decode("utf-8", "replace").splitlines() for text in contents)
    train = sorted(name for name in present if TRAIN_IMAGE.fullmatch(name))
    wnids = sorted({name.split("/")[1] for name in train})
    label_of = {wnid: i for i, wnid in enumerate(wnids)}
    label_of_image = {name: label_of[name.split("/")[1]] for name in train}
    known = set(present)
    for line in annotations:
        image, wnid = [*line.split("\t"), "", ""][:2]
        name = f"val/images/{image}"
        if wnid not in label_of or name not in known:
            what = f"names class {wnid!r}, which has no training images" if name in known else f"names missing {name}"
            raise DataError(f"{where}: val_annotations.txt {what}; remove the files to download the archive")
        label_of_image[name] = label_of[wnid]
    names = list(label_of_image)

    def read(indices: Indices) -> Iterator[tuple[str, Payload]]:
        wanted = [names[i] for i in indices]
        for name, payload in zip(wanted, read_members(wanted), strict=True):
            yield f"{where}: {name}", payload

    # The class is named by the first word, with the WordNet id if two classes share it.
    called = dict(line.split("\t", 1) for line in words if "\t" in line)
    first = [called.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    class_names = tuple(f"{w} ({wnid})" if first.count(w) > 1 else w for w, wnid in zip(first, wnids, strict=True))
    splits = consecutive_splits({"train": len(train), "test": len(names) - len(train)})
    return Listing(np.array(list(label_of_image.values()), dtype=np.int64), class_names, splits, read)


def find_medmnist(request: Request) -> Source:
    """A 2-D set of MedMNIST v2 / MedMNIST+ (Yang et al. 2023); URLs, checksums and classes are the package's.

    Of the published sizes (28, 64, 128 and 224 px) the one nearest to ``image_size`` is loaded, by default 28.
    """
    info = medmnist_info()[request.name]
    if request.name.endswith("3d"):
        raise DataError(f"{request.name} holds volumes; the methods here take images: choose from {_usable_medmnist()}")
    if info["task"].startswith("multi-label"):
        raise DataError(
            f"{request.name} has {len(info['label'])} labels per image (multi-label) and is scored by AUROC; the "
            f"probes here score one label per image by accuracy, so choose another: {_usable_medmnist()}"
        )
    size = nearest_size(request.image_size)
    tail = "" if size == MEDMNIST_SIZES[0] else f"_{size}"
    remote = Remote(info[f"url{tail}"], f"{request.name}{tail}.npz", info[f"MD5{tail}"])
    path = fetch(remote, request.root, progress=request.progress)
    class_names = tuple(name for _, name in sorted(info["label"].items(), key=lambda item: int(item[0])))

    def list_file() -> Listing:
        warn_unless_official(path, remote)
        return list_npz(path, class_names)

    return Source(request.name, (path,), list_file)


def medmnist_info() -> dict[str, dict[str, Any]]:
    """Description of every dataset in the ``medmnist`` package, by flag."""
    from medmnist import INFO

    return INFO


def _usable_medmnist() -> str:
    usable = (n for n, i in medmnist_info().items() if not n.endswith("3d") and not i["task"].startswith("multi-label"))
    return ", ".join(usable)


def nearest_size(image_size: int | None) -> int:
    """The published size nearest to ``image_size``; of two as near the larger one."""
    sizes = MEDMNIST_SIZES
    return sizes[0] if image_size is None else min(sizes, key=lambda size: (abs(size - image_size), -size))


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open the archive; DataError if it is truncated or not a zip archive."""
    with reraise_as(f"{path} is not a readable zip archive", "remove it to download it again"):
        return zipfile.ZipFile(path)


def read_zip_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the bytes of a member; DataError if it is corrupted or larger than 256 MiB."""
    size = archive.getinfo(name).file_size
    if size > MAX_MEMBER_BYTES:
        raise DataError(f"{archive.filename}: {name} unpacks to {size:,} bytes; refused as a decompression bomb")
    with reraise_as(f"{archive.filename}: {name} is corrupted", "remove the archive to download it again"):
        return archive.read(name)


def tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) for each regular file of a tar archive; DataError if it is broken or one exceeds 256 MiB."""
    way_out = "remove it to download it again"
    with reraise_as(f"{path} is not a readable tar archive", way_out), tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile():
                continue
            if member.size > MAX_MEMBER_BYTES:
                raise DataError(f"{path}: {member.name} has {member.size:,} bytes; refused as a decompression bomb")
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()
