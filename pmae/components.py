"""Principal components of images: fit, save, load, project, reconstruct; fitted once and kept in the cache.

:class:`PrincipalComponents` carries any orthonormal basis with its variances (``bases.py`` makes the others). Sums
over images are in ``moments.py``, eigenvectors in ``decomposition.py``, masked training in ``projection.py``.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from pmae.component_files import read_arrays, write_arrays
from pmae.decomposition import Eigen, leading_eigen, symmetric_eigen
from pmae.errors import ConfigError, DataError
from pmae.moments import Device, MeanAndStd, PixelMoments, Shape, TrainingImages, channels_first

_ARRAYS = ("mean", "std", "components", "explained_variance_ratio")

# Part of the cache's key: raised when the same images would give other components.
ALGORITHM_VERSION = 2
# Above this many pixel values the full covariance is neither held nor decomposed.
MAX_FULL_SIZE = 12_288
LOW_RANK = 1024

Array = TypeVar("Array", npt.NDArray[Any], torch.Tensor)


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """An orthonormal basis of standardised images, by falling variance.

    A pixel is standardised by its mean and population standard deviation over the training images; the deviation has
    a floor (:func:`pmae.moments.floor_std`). An image is
    flattened to D = C·H·W in that order. With K < D components (large images) what they leave of an image, the
    residual, counts as one more entry of a mask: see :attr:`spectrum`.

    Attributes:
        mean, std: (D,) float32 in the units of the images (uint8: 0 to 255).
        components: (D, K) float32 orthonormal columns V.
        explained_variance_ratio: (K,) float64 shares of the variance, falling; they sum to 1 when K = D.
        shape: (C, H, W).
        basis: ``pca``, ``dct``, ``wavelet``, ``rotation`` or ``pixel``.
        fingerprint: Hex hash of what it was fitted on.
        error_bound: How far, as a share of the variance, an entry of the ratio can be from the exact one; 0 where
            all components were computed and only rounding is left.
    """

    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]
    explained_variance_ratio: npt.NDArray[np.float64]
    shape: Shape
    basis: str = "pca"
    fingerprint: str = ""
    error_bound: float = 0.0

    def __post_init__(self) -> None:
        size, rank = int(np.prod(self.shape)), self.components.shape[-1]
        found = [a.shape for a in (self.mean, self.std, self.components, self.explained_variance_ratio)]
        if found != [(size,), (size,), (size, rank), (rank,)]:
            raise DataError(f"arrays of shapes {found} are no components of images (C, H, W) = {self.shape}")

    @classmethod
    def fit(cls, images: Any, *, rank: int | None = None, device: Device = "cpu") -> PrincipalComponents:
        """Principal components of the standardised training images (Bizeul et al. 2025, step 1).

        All D components, exactly, from the streamed covariance; for uint8 images its sums are exact integers. Images
        of more than 12,288 values get the 1,024 leading components and a residual instead.

        Args:
            images: An image set, whose ``train`` split is used, or an array (N, H, W, C): uint8, or float in any unit.
            rank: Number K of leading components; None takes all that the size allows.
            device: Where sums and eigenvectors are computed.

        Raises:
            DataError: Fewer than 2 images, images that do not vary, or no such array.
            ConfigError: ``rank`` is no number of components of these images.

        Warns:
            UserWarning: Fewer images than components: the last components carry no variance.
        """
        data = TrainingImages.of(images)
        if rank is not None and not 1 <= rank <= data.size:
            raise ConfigError(f"rank is {rank}; images of (C, H, W) = {data.shape} have 1 to {data.size} components")
        if rank is None and data.size > MAX_FULL_SIZE:
            rank = LOW_RANK
        if rank is not None and rank < data.size:
            return _fit_leading(data, rank, device)
        return cls.from_moments(data.moments(device), fingerprint=data.fingerprint)

    @classmethod
    def from_moments(cls, moments: PixelMoments, *, fingerprint: str = "") -> PrincipalComponents:
        """All components from the sums over images, which several workers may have collected and merged.

        Raises:
            DataError, Warns: As :meth:`fit`.
        """
        eigen = symmetric_eigen(moments.correlation(), moments.device)
        components = from_basis("pca", moments.shape, fingerprint, moments.mean_and_std(), eigen)
        if moments.count < len(eigen.values):
            warnings.warn(
                f"{moments.count} training images are fewer than the {len(eigen.values)} components: the last "
                f"{len(eigen.values) - np.count_nonzero(eigen.values)} carry no variance and only complete the basis",
                stacklevel=3,
            )
        return components

    @property
    def rank(self) -> int:
        """Number K of components."""
        return self.components.shape[1]

    @property
    def has_residual(self) -> bool:
        """Whether components do not span the images, so that masks have one more entry."""
        return self.rank < self.components.shape[0]

    @cached_property
    def spectrum(self) -> npt.NDArray[np.float64]:
        """Variance shares of all entries of a mask, (K,) or, with the residual's share last, (K + 1,)."""
        ratio = self.explained_variance_ratio
        return np.append(ratio, max(0.0, 1.0 - ratio.sum())) if self.has_residual else ratio

    def standardise(self, images: Array) -> Array:
        """Images (N, H, W, C) in the units of :attr:`mean` to standardised float32 (N, C, H, W)."""
        pixels = _tensor(images)
        if pixels.ndim != 4 or channels_first(pixels) != self.shape:
            raise DataError(
                f"images of shape {tuple(pixels.shape)} do not fit components of (C, H, W) = {self.shape}; "
                "give (N, H, W, C) of the size that the components were fitted on"
            )
        mean, std = (_shared(a, pixels.device).view(self.shape) for a in (self.mean, self.std))
        return _like(images, (pixels.permute(0, 3, 1, 2).float() - mean) / std)

    def to_images(self, standardised: Array) -> Array:
        """The inverse of :meth:`standardise` for pictures: (..., D) or (N, C, H, W) to rounded uint8 (N, H, W, C)."""
        pixels = self._flat(_tensor(standardised))
        mean, std = (_shared(a, pixels.device) for a in (self.mean, self.std))
        values = (pixels * std + mean).round().clamp(0, 255).to(torch.uint8)
        return _like(standardised, values.reshape(-1, *self.shape).permute(0, 2, 3, 1))

    def project(self, images: Array) -> Array:
        """Coordinates Vᵀ x, (..., K) float32.

        Args:
            images: uint8 (N, H, W, C), which are standardised first; floats, (..., D) or (..., C, H, W), are taken as
                standardised already.
        """
        pixels = _tensor(images)
        if pixels.dtype == torch.uint8:
            pixels = self.standardise(pixels)
        return _like(images, self._flat(pixels) @ _shared(self.components, pixels.device))

    def reconstruct(self, coordinates: Array) -> Array:
        """Standardised images V z, (..., D) float32, from coordinates (..., K)."""
        z = _tensor(coordinates).float()
        if z.shape[-1] != self.rank:
            raise DataError(f"coordinates of shape {tuple(z.shape)} do not end in the {self.rank} components")
        return _like(coordinates, z @ _shared(self.components, z.device).T)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a checksum, beside its place and then renamed."""
        description = {name: getattr(self, name) for name in ("shape", "basis", "fingerprint", "error_bound")}
        write_arrays(Path(path), {name: getattr(self, name) for name in _ARRAYS}, description)

    @classmethod
    def load(cls, path: str | Path) -> PrincipalComponents:
        """Read what :meth:`save` wrote, memory-mapped; DataError names a file that is missing, cut short or changed."""
        arrays, description = read_arrays(Path(path))
        if sorted(arrays) != sorted(_ARRAYS):
            raise DataError(f"{path} holds {', '.join(sorted(arrays))}, not components; give a file that save() wrote")
        shape = tuple(description.pop("shape"))
        fields: dict[str, Any] = {**arrays, **description, "shape": shape}
        return cls(**fields)

    def _flat(self, x: torch.Tensor) -> torch.Tensor:
        size = self.components.shape[0]
        if x.shape[-1] == size:
            return x.float()
        if tuple(x.shape[-3:]) == self.shape:
            return x.float().flatten(-3)
        raise DataError(f"standardised images of shape {tuple(x.shape)} end neither in {size} nor in {self.shape}")


def from_basis(
    basis: str, shape: Shape, fingerprint: str, mean_and_std: MeanAndStd, eigen: Eigen, total: float | None = None
) -> PrincipalComponents:
    """Components from orthonormal columns and their variances by falling size.

    Args:
        basis: The basis's name.
        shape: (C, H, W).
        fingerprint: Of the images that the variances were measured on.
        mean_and_std: (D,) each, of the pixels.
        eigen: Variances (K,) and columns (D, K).
        total: Variance of all D coordinates; None is the sum of the K.
    """
    total = float(eigen.values.sum()) if total is None else total
    if not total > 0:
        raise DataError("the training images are all equal: there is no variance to mask; add other images")
    mean, std = (a.astype(np.float32) for a in mean_and_std)
    vectors = np.ascontiguousarray(eigen.vectors, dtype=np.float32)
    error = eigen.error_bound / total
    return PrincipalComponents(mean, std, vectors, eigen.values / total, shape, basis, fingerprint, error)


def cached_components(
    images: Any,
    basis: str = "pca",
    folder: str | Path | None = None,
    *,
    device: Device = "cpu",
    collect: Callable[[TrainingImages], PixelMoments] | None = None,
) -> tuple[PrincipalComponents, str]:
    """The components of an image set's training split, from the cache or else fitted and kept there.

    Processes that want the same components at once wait for the first to fit them. A file that is damaged or belongs
    to other images is fitted anew, with a warning.

    Args:
        images: An image set (``.images``, ``.indices("train")``, ``.fingerprint``).
        basis: ``pca``, ``dct``, ``wavelet``, ``rotation`` or ``pixel``.
        folder: Where the files lie; None is ``components`` in the cache.
        device: Where they are computed if they must be.
        collect: Sums up the training images in this function's place, for example on several machines; used where
            all components of the ``pca`` basis are wanted.

    Returns:
        The components, and how they came: ``fitted``, ``cached`` or ``refitted: <reason>``.
    """
    from pmae.bases import fit_basis  # bases are made of this module's class
    from pmae.data.cache import cache_dir

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
            if collect is not None and basis == "pca" and data.size <= MAX_FULL_SIZE:
                components = PrincipalComponents.from_moments(collect(data), fingerprint=data.fingerprint)
            else:
                components = fit_basis(basis, images, device=device)
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


def _fit_leading(data: TrainingImages, rank: int, device: Device) -> PrincipalComponents:
    if data.count <= rank:
        warnings.warn(
            f"{data.count} training images have at most {data.count - 1} components with variance: "
            f"{data.count - 1} are fitted instead of {rank}",
            stacklevel=3,
        )
        rank = data.count - 1
    mean, std = data.mean_and_std(device)
    eigen, total = leading_eigen(lambda: data.standardised_blocks(mean, std, device), data.size, rank, device)
    return from_basis("pca", data.shape, data.fingerprint, (mean, std), eigen, total)


def _tensor(array: Any) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))


def _like(given: Array, result: torch.Tensor) -> Array:
    """The result as the type that was given."""
    return result if isinstance(given, torch.Tensor) else result.numpy()  # type: ignore[return-value]


def _shared(array: npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    # Ray hands out read-only arrays, which torch does not take.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
