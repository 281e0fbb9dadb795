"""``tinyimagenet``: 200 ImageNet classes at 64 px, 500 training and 50 validation images each (Stanford CS231n).

The labels of the official test split are not public, so the official validation split is the *test* split, as in the
papers. Both the archive and an unpacked folder ``tiny-imagenet-200`` can be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmae.data.cache import cache_dir
from pmae.data.download import Remote, fetch, warn_unless_official
from pmae.data.imageset import Indices
from pmae.data.source import Listing, Payload, Request, Source
from pmae.data.sources.archives import open_zip, read_zip_member
from pmae.errors import DataError

ARCHIVE = Remote(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
)
FOLDER = "tiny-imagenet-200"
TRAIN_IMAGE = re.compile(r"train/(n\d{8})/images/[^/]+\.JPEG")


@dataclass(frozen=True)
class Tree:
    """The files of the archive, packed or not: a text by its name, and payloads by their names."""

    where: str
    names: tuple[str, ...]
    text: Callable[[str], str]
    read: Callable[[list[str]], Iterator[Payload]]


def find(request: Request) -> Source:
    """Find the unpacked folder or the archive (any ``tiny-imagenet*.zip``) in the root, or download the archive."""
    root = request.root or cache_dir() / "downloads"
    for folder in (root / FOLDER, root):
        if (folder / "wnids.txt").is_file():
            return _unpacked(folder)
    there = [root / ARCHIVE.filename, *sorted(root.glob("tiny-imagenet*.zip"))]
    archive = next((p for p in there if p.is_file()), None) or fetch(ARCHIVE, root, progress=request.progress)
    return Source("tinyimagenet", (archive,), lambda: _list_archive(archive))


def _list_archive(path: Path) -> Listing:
    warn_unless_official(path, ARCHIVE)
    return _list(_packed(path))


def _unpacked(folder: Path) -> Source:
    files = tuple(sorted(p for p in folder.rglob("*") if p.is_file()))
    tree = Tree(
        where=str(folder),
        names=tuple(p.relative_to(folder).as_posix() for p in files),
        text=lambda name: (folder / name).read_text(encoding="utf-8"),
        read=lambda names: (folder / name for name in names),
    )
    return Source("tinyimagenet", files, lambda: _list(tree))


def _packed(path: Path) -> Tree:
    with open_zip(path) as archive:
        every = archive.namelist()
    start = next((n.removesuffix("wnids.txt") for n in every if n.endswith("wnids.txt")), f"{FOLDER}/")

    def text(name: str) -> str:
        with open_zip(path) as archive:
            return read_zip_member(archive, start + name).decode("utf-8", "replace")

    def read(names: list[str]) -> Iterator[Payload]:
        with open_zip(path) as archive:
            for name in names:
                yield read_zip_member(archive, start + name)

    return Tree(str(path), tuple(n.removeprefix(start) for n in every), text, read)


def _list(tree: Tree) -> Listing:
    present = set(tree.names)
    for name in ("words.txt", "val/val_annotations.txt"):
        if name not in present:
            raise DataError(f"{tree.where} is not TinyImageNet: {name} is missing; remove it to download the archive")
    train = sorted(name for name in tree.names if TRAIN_IMAGE.fullmatch(name))
    wnids = sorted({name.split("/")[1] for name in train})
    label_of = {wnid: i for i, wnid in enumerate(wnids)}
    held = _annotations(tree, label_of, present)
    names = train + list(held)
    labels = [label_of[name.split("/")[1]] for name in train] + list(held.values())

    def read(indices: Indices) -> Iterator[tuple[str, Payload]]:
        wanted = [names[i] for i in indices]
        for name, payload in zip(wanted, tree.read(wanted), strict=True):
            yield f"{tree.where}: {name}", payload

    splits = {"train": np.arange(len(train)), "test": np.arange(len(train), len(names))}
    return Listing(np.array(labels, dtype=np.int64), _class_names(tree, wnids), splits, read)


def _annotations(tree: Tree, label_of: dict[str, int], present: set[str]) -> dict[str, int]:
    """Return validation image -> label."""
    held: dict[str, int] = {}
    for line in tree.text("val/val_annotations.txt").splitlines():
        image, wnid = [*line.split("\t"), "", ""][:2]
        name = f"val/images/{image}"
        if wnid not in label_of or name not in present:
            what = f"names class {wnid!r}, which has no training images" if name in present else f"names missing {name}"
            raise DataError(f"{tree.where}: val_annotations.txt {what}; remove the files to download the archive")
        held[name] = label_of[wnid]
    return held


def _class_names(tree: Tree, wnids: list[str]) -> tuple[str, ...]:
    """Return the first word for each class, with the WordNet id if two classes share it."""
    words = dict(line.split("\t", 1) for line in tree.text("words.txt").splitlines() if "\t" in line)
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return tuple(f"{w} ({wnid})" if first.count(w) > 1 else w for w, wnid in zip(first, wnids, strict=True))
