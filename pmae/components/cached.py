"""Components of an image set, fitted once and then read from the cache."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from pmae.components.bases import fit_basis
from pmae.components.moments import Device, PixelMoments, TrainingImages
from pmae.components.principal import MAX_FULL_SIZE, PrincipalComponents, is_few
from pmae.data.cache import cache_dir
from pmae.errors import DataError

# Part of the cache's key: raised when the same images would give other components.
ALGORITHM_VERSION = 2


def cached_components(
    images: Any,
    basis: str = "pca",
    folder: str | Path | None = None,
    *,
    device: Device = "cpu",
    collect: Callable[[TrainingImages], PixelMoments] | None = None,
    progress: bool = True,
) -> tuple[PrincipalComponents, str]:
    """The components of an image set's training split, from the cache or else fitted and kept there.

    Processes that want the same components at once wait for the first to fit them. A corrupted file, or one of
    other images, is replaced by a new fit, with a warning.

    Args:
        images: An image set (``.images``, ``.indices("train")``, ``.fingerprint``).
        basis: ``pca``, ``dct``, ``wavelet``, ``rotation`` or ``pixel``.
        folder: Folder of the files; None is ``components`` in the cache.
        device: Where they are computed if they must be.
        collect: Optional replacement for the local moment pass, for example on several machines; used where all
            components of the ``pca`` basis are fitted from the covariance.
        progress: Report on standard error when the fit takes more than a few seconds.

    Returns:
        The components, and how they came: ``fitted``, ``cached`` or ``refitted: <reason>``.
    """
    fingerprint = TrainingImages.of(images).fingerprint
    folder = Path(folder) if folder is not None else cache_dir() / "components"
    key = hashlib.sha256(f"{ALGORITHM_VERSION} {basis} {fingerprint}".encode()).hexdigest()[:20]
    path = folder / f"{basis}-{key}.safetensors"
    found = _read_cached(path, basis, fingerprint)
    if isinstance(found, PrincipalComponents):
        return found, "cached"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read_cached(path, basis, fingerprint)  # another process may have fitted it meanwhile
            if isinstance(found, PrincipalComponents):
                return found, "cached"
            if found:
                warnings.warn(f"{found}; fitting the components again", stacklevel=2)
            data = TrainingImages.of(images)
            if collect is not None and basis == "pca" and data.size <= MAX_FULL_SIZE and not is_few(data):
                moments = collect(data)
                components = PrincipalComponents.from_moments(moments, fingerprint=data.fingerprint, progress=progress)
            else:
                components = fit_basis(basis, images, device=device, progress=progress)
            components.save(path)
    except OSError as error:
        raise DataError(
            f"components cannot be kept in {folder} ({error}); make room there, or set PMAE_CACHE to another folder"
        ) from error
    return components, f"refitted: {found}" if found else "fitted"


def _read_cached(path: Path, basis: str, fingerprint: str) -> PrincipalComponents | str:
    """The components in ``path``, or why they cannot be used; an empty reason when there are none."""
    if not path.exists():
        return ""
    try:
        components = PrincipalComponents.load(path)
    except DataError as error:
        return str(error)
    if (components.basis, components.fingerprint) != (basis, fingerprint):
        return f"{path} holds the {components.basis} components of other images"
    return components
