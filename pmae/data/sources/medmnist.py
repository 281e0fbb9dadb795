"""Every 2-D set of MedMNIST v2 / MedMNIST+ (Yang et al. 2023) by its flag, for example ``bloodmnist``.

URLs, checksums and class names come from the ``medmnist`` package. Of the published sizes (28, 64, 128 and 224 px) the
one nearest to ``image_size`` is loaded, by default 28, and resized if it differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pmae.data.download import Remote, fetch, warn_unless_official
from pmae.data.source import Listing, Request, Source
from pmae.data.sources.npz import list_npz
from pmae.errors import DataError

SIZES = (28, 64, 128, 224)


def flags() -> tuple[str, ...]:
    """Return the flags of the 2-D sets; empty if the ``medmnist`` package is not installed."""
    return tuple(flag for flag in _info() if not flag.endswith("3d"))


def is_flag(name: str) -> bool:
    """Whether ``name`` is a flag of MedMNIST, including the 3-D ones, which ``find`` refuses."""
    return name in _info()


def find(request: Request) -> Source:
    """Find the file in the root, or download it."""
    info = _info()[request.name]
    if request.name.endswith("3d"):
        raise DataError(f"{request.name} holds volumes; the methods here take images: choose from {_usable()}")
    if info["task"].startswith("multi-label"):
        raise DataError(
            f"{request.name} has {len(info['label'])} labels per image (multi-label) and is scored by AUROC; the "
            f"probes here score one label per image by accuracy, so choose another: {_usable()}"
        )
    size = nearest_size(request.image_size)
    tail = "" if size == SIZES[0] else f"_{size}"
    remote = Remote(info[f"url{tail}"], f"{request.name}{tail}.npz", info[f"MD5{tail}"])
    path = fetch(remote, request.root, progress=request.progress)
    class_names = tuple(name for _, name in sorted(info["label"].items(), key=lambda item: int(item[0])))
    return Source(request.name, (path,), lambda: _list(path, remote, class_names))


def _usable() -> str:
    return ", ".join(name for name in flags() if not _info()[name]["task"].startswith("multi-label"))


def nearest_size(image_size: int | None) -> int:
    """Return the published size nearest to ``image_size``; of two as near the larger one."""
    return SIZES[0] if image_size is None else min(SIZES, key=lambda size: (abs(size - image_size), -size))


def _list(path: Path, remote: Remote, class_names: tuple[str, ...]) -> Listing:
    warn_unless_official(path, remote)
    return list_npz(path, class_names)


def _info() -> dict[str, dict[str, Any]]:
    try:
        from medmnist import INFO
    except ImportError:
        return {}
    return INFO
