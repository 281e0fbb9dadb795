"""Principal components of images: fit, save, load, project, reconstruct.

:class:`PrincipalComponents` carries any orthonormal basis with its variances (``bases`` makes the others and keeps all
of them in the cache). Sums over images and eigenvectors are in ``moments``.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from safetensors.numpy import save_file

from pmae.components.moments import (
    Device,
    Eigen,
    MeanAndStd,
    PixelMoments,
    Shape,
    TrainingImages,
    channels_first,
    gram_eigen,
    leading_eigen,
    symmetric_eigen,
)
from pmae.config import LOW_RANK, MAX_FULL_SIZE
from pmae.errors import ConfigError, DataError
from pmae.files import replace_atomically

ARRAYS = ("mean", "std", "components", "explained_variance_ratio")
SCHEMA_VERSION = 1
STRIPE_BYTES = 2**28
# Rounding leaves this much of a total of 1 when all variance is captured; it is not a residual.
NO_VARIANCE = 1e-12
REFIT_HINT = "; delete it to fit the components again"  # the end of errors about files that can be fitted again
NO_VARIATION = "the training images are all equal: there is no variance to mask; add other images"

Array = TypeVar("Array", npt.NDArray[Any], torch.Tensor)


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """An orthonormal basis of standardized images, in descending order of variance.

    A pixel is standardized by its mean and floored standard deviation (:func:`pmae.components.moments.floor_std`) over
    the training images, an image flattened to D = C·H·W in that order. With K < D components what they leave of an
    image, the residual, is one more entry of a mask, see :attr:`spectrum`. Of N < D training images the components with
    variance are kept, at most N - 1; the residual's share is then exactly 0.

    Attributes:
        mean, std: (D,) float32 in the units of the images (uint8: 0 to 255).
        components: (D, K) float32 orthonormal columns V.
        explained_variance_ratio: (K,) float64 shares of the variance, in descending order; they sum to 1 when K = D.
        shape: (C, H, W).
        basis: ``pca``, ``dct``, ``wavelet``, ``rotation``, ``pixel`` or, of your own, ``own:NAME``.
        fingerprint: Hex hash of what it was fitted on.
        error_bound: Largest error of an entry of the ratio, as a share of the variance, apart from rounding; the
            residual's share is too large by at most K times this bound.
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
            raise DataError(f"arrays of shapes {found} are not components of images (C, H, W) = {self.shape}")

    @classmethod
    def fit(
        cls, images: Any, *, rank: int | None = None, device: Device = "cpu", progress: bool = False
    ) -> PrincipalComponents:
        """Principal components of the standardized training images (Bizeul et al. 2025, step 1).

        N <= min(D, 12,288) images: the components with variance, exactly (Gram matrix). Else D <= 12,288: all D,
        exactly (streamed covariance). Else the leading 1,024 (subspace iteration) and a residual.

        Args:
            images: An image set, whose ``train`` split is used, or an array (N, H, W, C): uint8, or float in any unit.
            rank: Number K of leading components; None takes all, of D > 12,288 the leading 1,024.
            device: Where sums and eigenvectors are computed.
            progress: Report on standard error when the fit takes more than a few seconds.

        Raises:
            DataError: Fewer than 2 images, images that do not vary, or an array of another shape or type.
            ConfigError: ``rank`` is not a possible number of components of these images.

        Warns:
            UserWarning: Fewer images than components: only those with variance are fitted.
        """
        data = TrainingImages.of(images)
        if rank is not None and not 1 <= rank <= data.size:
            raise ConfigError(f"rank is {rank}; images of (C, H, W) = {data.shape} have 1 to {data.size} components")
        if rank is None and data.size > MAX_FULL_SIZE:
            rank = LOW_RANK
        if is_few(data):
            return _fit_few(data, rank, device, progress)
        if rank is not None and rank < data.size:
            mean, std = data.mean_and_std(device)
            title = "a pass over the images" if progress else ""
            passes = partial(data.standardized_blocks, mean, std, title)
            eigen, total = leading_eigen(passes, data.size, rank, device)
            return from_basis("pca", data.shape, data.fingerprint, (mean, std), eigen, total)
        return cls.from_moments(data.moments(device, progress), fingerprint=data.fingerprint, progress=progress)

    @classmethod
    def from_moments(
        cls, moments: PixelMoments, *, fingerprint: str = "", progress: bool = False
    ) -> PrincipalComponents:
        """All components from the sums over images, which workers may have merged; raises and warns as :meth:`fit`."""
        eigen = symmetric_eigen(moments.correlation(), moments.device, progress)
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
        if not self.has_residual:
            return ratio
        rest = 1.0 - ratio.sum()
        return np.append(ratio, rest if rest > NO_VARIANCE else 0.0)

    def standardize(self, images: Array) -> Array:
        """Images (N, H, W, C) in the units of :attr:`mean` to standardized float32 (N, C, H, W)."""
        pixels = _tensor(images)
        if pixels.ndim != 4 or channels_first(pixels) != self.shape:
            raise DataError(
                f"images of shape {tuple(pixels.shape)} do not fit components of (C, H, W) = {self.shape}; "
                "give (N, H, W, C) of the size that the components were fitted on"
            )
        mean, std = (_shared(a, pixels.device).view(self.shape) for a in (self.mean, self.std))
        return _like(images, (pixels.permute(0, 3, 1, 2).float() - mean) / std)

    def project(self, images: Array) -> Array:
        """Coordinates Vᵀ x, (..., K) float32.

        uint8 images (N, H, W, C) are standardized first; floats, (..., D) or (..., C, H, W), count as standardized.
        """
        x = _tensor(images)
        x = self.standardize(x) if x.dtype == torch.uint8 else x.float()
        if tuple(x.shape[-3:]) == self.shape and x.shape[-1] != len(self.mean):
            x = x.flatten(-3)
        if x.shape[-1] != len(self.mean):
            raise DataError(
                f"standardized images of shape {tuple(x.shape)} end neither in {len(self.mean)} nor in {self.shape}"
            )
        return _like(images, x @ _shared(self.components, x.device))

    def reconstruct(self, coordinates: Array) -> Array:
        """Standardized images V z, (..., D) float32, from coordinates (..., K)."""
        z = _tensor(coordinates).float()
        if z.shape[-1] != self.rank:
            raise DataError(f"coordinates of shape {tuple(z.shape)} do not end in the {self.rank} components")
        return _like(coordinates, z @ _shared(self.components, z.device).T)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a checksum, atomically."""
        path = Path(path)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        description = {name: getattr(self, name) for name in ("shape", "basis", "fingerprint", "error_bound")}
        text = json.dumps({"schema_version": SCHEMA_VERSION, **description}, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path) as temporary:
            save_file(arrays, temporary, {"description": text, "sha256": _checksum(arrays, text)})

    @classmethod
    def load(cls, path: str | Path) -> PrincipalComponents:
        """Read what :meth:`save` wrote, memory-mapped; DataError if the file is missing, truncated or changed."""
        try:
            # Through torch because its arrays stay in the file's pages, which all processes share.
            with safetensors.safe_open(Path(path), framework="pt") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 (not a mapping)
            text = metadata["description"]
            if _checksum(arrays, text) != metadata["sha256"]:
                raise DataError(f"{path} is corrupted: its checksum does not match{REFIT_HINT}")
            description = json.loads(text)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist") from None
        except (safetensors.SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{path} cannot be read ({type(error).__name__}: {error}); it is truncated, corrupted or not a file of "
                f"this toolkit{REFIT_HINT}"
            ) from error
        if description.pop("schema_version") != SCHEMA_VERSION:
            raise DataError(f"{path} was written by another version of the toolkit{REFIT_HINT}")
        if sorted(arrays) != sorted(ARRAYS):
            raise DataError(f"{path} holds {', '.join(sorted(arrays))}, not components; give a file that save() wrote")
        fields: dict[str, Any] = {**arrays, **description, "shape": tuple(description["shape"])}
        return cls(**fields)


def from_basis(
    basis: str, shape: Shape, fingerprint: str, mean_and_std: MeanAndStd, eigen: Eigen, total: float | None = None
) -> PrincipalComponents:
    """Components of descending variances (K,), orthonormal columns (D, K) and the total variance (None: their sum)."""
    total = float(eigen.values.sum()) if total is None else total
    if not total > 0:
        raise DataError(NO_VARIATION)
    mean, std = (a.float().cpu().numpy() for a in mean_and_std)
    vectors = np.ascontiguousarray(eigen.vectors, dtype=np.float32)
    error = eigen.error_bound / total
    return PrincipalComponents(mean, std, vectors, eigen.values / total, shape, basis, fingerprint, error)


def is_few(data: TrainingImages) -> bool:
    """Whether the Gram matrix of the images is smaller than the covariance of the pixels, and can be held."""
    return data.count <= min(data.size, MAX_FULL_SIZE)


def _fit_few(data: TrainingImages, rank: int | None, device: Device, progress: bool) -> PrincipalComponents:
    mean, std = (a.view(data.shape) for a in data.mean_and_std(device))
    channels, height, width = data.shape
    lines = max(1, STRIPE_BYTES // (8 * data.count * channels * width))  # image rows at a time

    def stripes() -> Iterator[torch.Tensor]:
        for top in range(0, height, lines):
            rows = slice(top, top + lines)
            pixels = torch.from_numpy(np.ascontiguousarray(data.images[data.indices, rows])).to(device)
            x = pixels.permute(0, 3, 1, 2).to(torch.float64, memory_format=torch.contiguous_format)
            yield x.sub_(mean[:, rows]).div_(std[:, rows]).view(data.count, -1)

    eigen, total = gram_eigen(stripes, data.count, rank, device, progress)
    if not total > 0:
        raise DataError(NO_VARIATION)
    # Each stripe holds some rows of all channels; the order of the pixels is C, H, W.
    starts = range(0, height, lines)
    sizes = [channels * min(lines, height - top) * width for top in starts]
    parts = np.split(eigen.vectors, np.cumsum(sizes)[:-1])
    vectors = np.concatenate([part.reshape(channels, -1, width, part.shape[1]) for part in parts], axis=1)
    found = vectors.shape[-1]
    eigen = eigen._replace(vectors=vectors.reshape(data.size, found))
    components = from_basis("pca", data.shape, data.fingerprint, (mean.flatten(), std.flatten()), eigen, total)
    wanted = data.size if rank is None else rank
    if found < wanted:
        few = f"{data.count} training images give {found} of {wanted} components"
        warnings.warn(f"{few}; those that carry no variance are not fitted", stacklevel=3)
    return components


def _checksum(arrays: Mapping[str, npt.NDArray[Any]], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()


def _tensor(array: Any) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))


def _like(given: Array, result: torch.Tensor) -> Array:
    """The result as the type that was given."""
    return result if isinstance(given, torch.Tensor) else result.numpy()  # type: ignore[return-value]


def _shared(array: npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    # Ray hands out read-only arrays, which torch does not take.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
