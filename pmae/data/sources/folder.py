"""``folder:PATH``: one sub-folder per class, with image files at any depth in it.

If there is a sub-folder ``train`` (and optionally ``val`` and ``test``), the class folders are inside these instead.
Every file in a class folder is an image, hidden ones excepted.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pmae.data.imageset import Indices
from pmae.data.source import SPLIT_NAMES, SPLIT_OF, Listing, Payload, Request, Source
from pmae.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"))
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini"))
SYSTEM_FOLDERS = {"__macosx", "@eadir"}  # in archives packed on a Mac, and on Synology disks


def find(request: Request) -> Source:
    """Find the images below the request's path."""
    root = request.path
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"the folder {root} {what}; give folder:PATH a folder with one sub-folder per class")
    split_folders = _split_folders(root)
    _refuse_repeated([sub for folder in split_folders.values() for sub in _subfolders(folder)])
    by_split = {split: _class_files(folder) for split, folder in split_folders.items()}
    files = tuple(path for classes in by_split.values() for paths in classes.values() for path in paths)
    return Source(_name(root), files, lambda: _list(by_split))


def _name(root: Path) -> str:
    """Return the folder's name, or its parent's if it is the name of a part of a dataset, such as ``train``."""
    path = root.resolve()
    while path.name.lower() in {*SPLIT_OF, "images"} and path.parent.name:
        path = path.parent
    return path.name or "folder"


def _refuse_repeated(folders: list[Path]) -> None:
    """Refuse class folders that link to, into or above another class folder: their images would count twice."""
    seen: dict[Path, Path] = {}
    for folder in sorted(folders, key=lambda folder: folder.is_symlink()):
        target = folder.resolve()
        for other, first in seen.items():
            if target == other or target in other.parents or other in target.parents:
                raise DataError(
                    f"the class folder {folder} is a link to {target}, which shares its images with the class folder "
                    f"{first}; every image must belong to one class and one split, so remove the link"
                )
        seen[target] = folder


def _list(by_split: dict[str, dict[str, list[Path]]]) -> Listing:
    class_names = tuple(sorted({name for classes in by_split.values() for name in classes}))
    paths: list[Path] = []
    labels: list[int] = []
    splits: dict[str, Indices] = {}
    for split, classes in by_split.items():
        start = len(paths)
        for name, own in classes.items():
            paths += own
            labels += [class_names.index(name)] * len(own)
        splits[split] = np.arange(start, len(paths), dtype=np.int64)

    def read(indices: Indices) -> Iterator[tuple[str, Payload]]:
        for i in indices:
            yield str(paths[i]), paths[i]

    return Listing(np.array(labels, dtype=np.int64), class_names, splits, read)


def _split_folders(root: Path) -> dict[str, Path]:
    """Return split name -> folder of class folders; without splits the root is ``train``."""
    subfolders = {entry.name.lower(): entry for entry in _subfolders(root)}
    found = {split: subfolders[name] for split, names in SPLIT_NAMES.items() for name in names if name in subfolders}
    if "train" not in found or not _subfolders(found["train"]):
        return {"train": root}
    ignored = [p.name for p in subfolders.values() if p not in found.values()]
    if ignored:
        warnings.warn(f"{root} has splits; its other folders are left out: {', '.join(sorted(ignored))}", stacklevel=2)
    return found


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Return class name -> sorted image files."""
    classes = {sub.name: sorted(_files(sub)) for sub in _subfolders(folder)}
    loose = [p.name for p in folder.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES]
    if not classes:
        if loose:
            raise DataError(
                f"the images in {folder} have no labels (for example {min(loose)}); "
                "put them into one sub-folder per class"
            )
        raise DataError(f"the folder {folder} is empty; it needs one sub-folder of images per class")
    if loose:
        warnings.warn(f"{len(loose)} images in {folder} are outside the class folders and are left out", stacklevel=2)
    for name, files in classes.items():
        if not files:
            raise DataError(f"the class folder {folder / name} holds no images; fill it or remove it")
    return classes


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))


def _is_hidden(folder: str) -> bool:
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            path = Path(parent, name)
            if name.startswith(".") or name.lower() in SYSTEM_FILES:
                continue
            if not path.exists():
                raise DataError(f"{path} is a link to a file that does not exist; repair or remove it")
            if path.is_file():
                yield path
