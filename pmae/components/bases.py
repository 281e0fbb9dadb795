"""Bases by name, fitted and kept in the cache: the principal components, and others to ask whether PCA matters.

Each is applied to standardized pixels and comes back as :class:`PrincipalComponents`, its columns sorted by the
variance measured on the training images.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pywt
import scipy.fft
from filelock import FileLock

from pmae.components.moments import Device, Eigen, Shape, TrainingImages, run_interruptibly
from pmae.components.principal import REFIT_HINT, PrincipalComponents, from_basis
from pmae.config import BASES, MAX_FULL_SIZE, OWN, check_choice
from pmae.data.cache import cache_dir
from pmae.errors import ConfigError, DataError

Matrix = npt.NDArray[np.floating]

# Part of the cache's key: raised when the same images would give other components.
ALGORITHM_VERSION = 2
WAVELET = "db2"
ROTATION_SEED = 0
COLUMNS_AT_ONCE = 1024


def fit_components(basis: str, images: Any) -> PrincipalComponents:
    """The components that a training masks; those of an image set come from the cache where it has them."""
    if basis.startswith(OWN):
        raise ConfigError(f"basis is {basis!r}; give its components, as fit_basis(function, images) fits them")
    return cached_components(images, basis)[0] if hasattr(images, "fingerprint") else fit_basis(basis, images)


def cached_components(
    images: Any, basis: str = "pca", folder: str | Path | None = None, *, device: Device = "cpu", progress: bool = True
) -> tuple[PrincipalComponents, str]:
    """Load the components of the train split from the cache, or fit and cache them; concurrent processes fit once.

    A corrupted file, or one of other images, is replaced by a new fit, with a warning.

    Args:
        images: An image set (``.images``, ``.indices("train")``, ``.fingerprint``).
        basis: ``pca``, ``dct``, ``wavelet``, ``rotation`` or ``pixel``.
        folder: Folder of the files; None is ``components`` in the cache.
        device: Where they are computed if they must be.
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
        return str(error).removesuffix(REFIT_HINT)
    if (components.basis, components.fingerprint) != (basis, fingerprint):
        return f"{path} holds the {components.basis} components of other images"
    return components


def fit_basis(
    basis: str | Callable[[Shape], Matrix], images: Any, *, device: Device = "cpu", progress: bool = False
) -> PrincipalComponents:
    """A basis with the variance of each coordinate over the training images, in descending order of variance.

    Args:
        basis: ``pca``; ``dct``: the two-dimensional DCT-II of each channel; ``wavelet``: Daubechies' db2, periodic, of
            each channel on as many levels as the sides can be halved; ``rotation``: a random one, always the same;
            ``pixel``; or a function of your own from (C, H, W) to orthonormal columns (D, D), D = C·H·W.
        images: An image set, whose ``train`` split is used, or an array (N, H, W, C).
        device: Where sums (and for ``pca`` eigenvectors) are computed.
        progress: Report on standard error when fitting ``pca`` takes more than a few seconds.

    Raises:
        ConfigError: An unknown name, images that the basis cannot take, or columns that are not orthonormal.
        DataError: As :meth:`PrincipalComponents.fit`.
    """
    if basis == "pca":
        return PrincipalComponents.fit(images, device=device, progress=progress)
    if callable(basis):
        name, make = OWN + getattr(basis, "__name__", type(basis).__name__), basis
    else:
        check_choice("basis", basis, BASES)
        name, make = basis, _MATRICES[basis]
    data = TrainingImages.of(images)
    if data.size > MAX_FULL_SIZE:
        raise ConfigError(
            f"basis {name!r} of images (C, H, W) = {data.shape} has {data.size} coordinates, more than the "
            f"{MAX_FULL_SIZE} that are held; lower image_size or use basis 'pca', which then keeps the leading ones"
        )
    vectors = run_interruptibly(lambda: np.asarray(make(data.shape)))
    if callable(basis):
        _check_orthonormal(vectors, data.size, name)
    moments = data.moments(device)
    correlation = moments.correlation()
    variances = run_interruptibly(lambda: _variances(vectors, correlation))
    order = np.argsort(-variances.round(12), kind="stable")  # equal variances keep their order despite rounding
    sorted_ = Eigen(variances[order], vectors[:, order])
    return from_basis(name, data.shape, data.fingerprint, moments.mean_and_std(), sorted_)


def dct_matrix(shape: Shape) -> Matrix:
    """(D, D) orthonormal columns: the DCT-II over height and width of each channel."""
    channels, height, width = shape
    vertical, horizontal = (scipy.fft.dct(np.eye(n), norm="ortho", axis=0).T for n in (height, width))
    return np.kron(np.eye(channels), np.kron(vertical, horizontal))


def wavelet_matrix(shape: Shape) -> Matrix:
    """(D, D) orthonormal columns: the periodic db2 wavelets over height and width of each channel."""
    channels, height, width = shape
    levels = min((n & -n).bit_length() - 1 for n in (height, width))
    if levels == 0:
        raise ConfigError(
            f"basis 'wavelet' halves the sides, and {width} x {height} px has an odd one; "
            f"set image_size to an even number, best a power of two, or use basis 'dct'"
        )
    impulses = np.eye(height * width).reshape(-1, height, width)
    with warnings.catch_warnings():
        # It warns of boundary effects on many levels; periodic wavelets stay orthonormal down to one pixel.
        warnings.filterwarnings("ignore", message="Level value", category=UserWarning)
        transformed = pywt.wavedec2(impulses, WAVELET, mode="periodization", level=levels)
    coefficients, _ = pywt.coeffs_to_array(transformed, axes=(-2, -1))
    return np.kron(np.eye(channels), coefficients.reshape(height * width, -1))


def rotation_matrix(shape: Shape, seed: int = ROTATION_SEED) -> Matrix:
    """(D, D) orthonormal columns, uniform over all rotations and reflections (Mezzadri 2007)."""
    size = int(np.prod(shape))
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return q * np.sign(r.diagonal())


def _check_orthonormal(vectors: Matrix, size: int, name: str) -> None:
    if vectors.shape != (size, size) or not np.allclose(vectors.T @ vectors, np.eye(size), atol=1e-5):
        raise ConfigError(
            f"basis {name!r} is an array {vectors.shape} whose columns are not an orthonormal basis of the {size} "
            f"pixel values; return ({size}, {size}), for example the q of numpy.linalg.qr"
        )


def _variances(vectors: Matrix, correlation: Matrix) -> npt.NDArray[np.float64]:
    """diag(Vᵀ C V), a stripe of columns at a time to save memory."""
    stripes = np.split(vectors, range(COLUMNS_AT_ONCE, vectors.shape[1], COLUMNS_AT_ONCE), axis=1)
    return np.concatenate([np.einsum("dk,dk->k", stripe, correlation @ stripe) for stripe in stripes]).clip(0)


_MATRICES: dict[str, Callable[[Shape], Matrix]] = {
    "dct": dct_matrix,
    "wavelet": wavelet_matrix,
    "rotation": rotation_matrix,
    "pixel": lambda shape: np.eye(int(np.prod(shape))),
}
