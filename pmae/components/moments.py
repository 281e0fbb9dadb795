"""Sums over training images from which components are computed: streamed in blocks, and added up over workers.

The moments of uint8 images are exact integers, so any split of the images over blocks, workers and devices gives the
same bits. Eigenvectors and components are computed from them in ``eigen`` and ``principal``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pmae.devices import cpu_has_vnni
from pmae.errors import DataError

Float64s = npt.NDArray[np.float64]
MeanAndStd = tuple[Float64s, Float64s]
Device = torch.device | str
Shape = tuple[int, int, int]  # (C, H, W)

# A pixel minus 128 is at most 128 in size, so sums of 1,024 products stay within the 2^24 up to which float32 holds
# every integer: the block's product is exact, in TF32 as well, and float64 adds the blocks up without rounding.
BLOCK_ROWS = 1024
UINT8_SHIFT = 128.0
# A pixel's standard deviation is at least this share of the root mean square over all pixels. Without it a crop that
# moves a stroke into an almost constant border produces values of hundreds of standard deviations.
STD_FLOOR = 0.25
# The matrix is symmetric: with 12 stripes 13/24 of the products are computed instead of all.
STRIPES = 12


class PixelMoments:
    """Number of images, sums of their pixels and sums of products of pixel pairs.

    Pixels are counted in C, H, W order and, for uint8, from 128, which changes no covariance. Float images are summed
    in float64.

    Args:
        shape: (C, H, W) of the images.
        device: Where the products are computed and summed.
        shift: What is subtracted from each pixel: 128 for uint8 images, 0 for float images.

    Attributes:
        count: Images so far.
        sums: (D,) float64 sums of the shifted pixels.
        products: (D, D) float64 sums of products of shifted pixels; only the upper triangle is filled.
    """

    def __init__(self, shape: Shape, *, device: Device = "cpu", shift: float = UINT8_SHIFT) -> None:
        self.shape, self.device, self.shift = shape, torch.device(device), shift
        self.count = 0
        size = int(np.prod(shape))
        self.sums = torch.zeros(size, dtype=torch.float64, device=self.device)
        self.products = torch.zeros(size, size, dtype=torch.float64, device=self.device)

    def update(self, block: np.ndarray) -> None:
        """Add images (N, H, W, C), uint8 or float as the shift says."""
        for rows in np.array_split(block, max(1, -(-len(block) // BLOCK_ROWS))):
            pixels = shifted_pixels(rows, self.shift, self.device)
            if pixels.shape[1] != len(self.sums):
                raise DataError(
                    f"images of shape {rows.shape[1:]} do not belong to moments of (C, H, W) = {self.shape}"
                )
            self.count += len(pixels)
            self.sums += pixels.sum(0)  # of whole numbers: float32 rounds none of a block's
            if self.shift == UINT8_SHIFT and self.device.type == "cpu" and cpu_has_vnni():
                pixels = pixels.to(torch.int8)
            for start, end in _stripes(len(self.sums)):
                self.products[start:end, start:] += _products(pixels[:, start:end], pixels[:, start:])

    def merge(self, other: PixelMoments) -> None:
        """Add what another worker has summed over other images."""
        if (other.shape, other.shift) != (self.shape, self.shift):
            raise DataError(
                f"moments of {other.shape} (shift {other.shift}) cannot be added to moments of {self.shape} "
                f"(shift {self.shift}); sum images of one size and type"
            )
        self.count += other.count
        self.sums += other.sums.to(self.device)
        for start, end in _stripes(len(self.sums)):
            self.products[start:end, start:] += other.products[start:end, start:].to(self.device)

    def mean_and_std(self) -> MeanAndStd:
        """(D,) mean and population standard deviation in the images' units, floored by :func:`floor_std`."""
        self._check_count()
        return _mean_and_std(self.count, self.sums, self.products.diagonal(), self.shift)

    def correlation(self) -> Float64s:
        """(D, D) covariance of the standardized pixels, both triangles; a constant pixel's row is zero."""
        self._check_count()
        variance = _variance(self.count, self.sums, self.products.diagonal())
        weight = torch.where(variance > 0, floor_std(variance).reciprocal(), 0.0) / self.count
        result = torch.empty_like(self.products)
        for start, end in _stripes(len(self.sums)):
            # Striped, so that no third matrix of this size is made on the way. For uint8 all is whole numbers
            # until the weights come in.
            part = self.products[start:end, start:] * self.count
            part -= self.sums[start:end, None] * self.sums[start:]
            part *= weight[start:end, None] * weight[start:]
            square = part[:, : end - start].triu()
            part[:, : end - start] = square + square.triu(1).T
            result[start:end, start:] = part
            result[start:, start:end] = part.T
        return result.cpu().numpy()

    def _check_count(self) -> None:
        if self.count < 2:
            raise DataError(f"components need at least 2 images, there are {self.count}; raise limit or add images")


class TrainingImages:
    """The images that components are fitted on, read block by block: a memory map is never read as a whole.

    Args:
        images: (N, H, W, C) uint8, or float in any unit.
        indices: (M,) which of them are the training images.
        fingerprint: Hex hash of the images; None computes one of those at ``indices``.

    Attributes:
        shape: (C, H, W).
        fingerprint: Hex hash of the training images, or of the set they are from and their indices.

    Raises:
        DataError: No such array, or fewer than 2 images.
    """

    def __init__(self, images: np.ndarray, indices: npt.NDArray[np.int64], fingerprint: str | None = None) -> None:
        if images.ndim != 4 or (images.dtype != np.uint8 and images.dtype.kind != "f"):
            raise DataError(f"images are {images.dtype} {images.shape}; they must be uint8 or float (N, H, W, C)")
        if len(indices) < 2:
            raise DataError(f"components need at least 2 training images, there are {len(indices)}; raise limit")
        self.images, self.indices = images, indices
        self.shape = channels_first(images)
        self.shift = UINT8_SHIFT if images.dtype == np.uint8 else 0.0
        self._given = fingerprint

    @classmethod
    def of(cls, images: Any) -> TrainingImages:
        """The ``train`` split of an image set, or all of an array (N, H, W, C)."""
        if hasattr(images, "indices") and hasattr(images, "images"):
            return cls(images.images, np.asarray(images.indices("train")), getattr(images, "fingerprint", None))
        array = np.asarray(images)
        return cls(array, np.arange(len(array)))

    @property
    def count(self) -> int:
        """Number of training images."""
        return len(self.indices)

    @property
    def size(self) -> int:
        """D = C·H·W."""
        return int(np.prod(self.shape))

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        if self._given is None:
            for block in self.blocks():
                digest.update(np.ascontiguousarray(block).data)
        else:
            digest.update(f"{self._given} ".encode() + self.indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def blocks(self) -> Iterator[np.ndarray]:
        """Images (n, H, W, C), about a thousand at a time."""
        for start in range(0, self.count, BLOCK_ROWS):
            yield self.images[self.indices[start : start + BLOCK_ROWS]]

    def moments(self, device: Device = "cpu") -> PixelMoments:
        """Their sums and products."""
        moments = PixelMoments(self.shape, device=device, shift=self.shift)
        for block in self.blocks():
            moments.update(block)
        return moments

    def mean_and_std(self, device: Device = "cpu") -> MeanAndStd:
        """As :meth:`PixelMoments.mean_and_std`, without products of pairs: for images too large to have them."""
        sums, squares = (torch.zeros(self.size, dtype=torch.float64, device=device) for _ in range(2))
        for block in self.blocks():
            pixels = shifted_pixels(block, self.shift, device)
            sums += pixels.sum(0, dtype=torch.float64)
            squares += pixels.square().sum(0, dtype=torch.float64)
        return _mean_and_std(self.count, sums, squares, self.shift)

    def standardized_blocks(self, mean: Float64s, std: Float64s, device: Device = "cpu") -> Iterator[Tensor]:
        """Standardized images, float32 (n, D) on ``device``."""
        center, scale = (torch.from_numpy(a).to(device) for a in (mean - self.shift, std))
        for block in self.blocks():
            yield ((shifted_pixels(block, self.shift, device) - center) / scale).float()


def channels_first(images: Any) -> Shape:
    """(C, H, W) of images (N, H, W, C)."""
    height, width, channels = (int(n) for n in images.shape[1:])
    return channels, height, width


def shifted_pixels(block: np.ndarray, shift: float, device: Device) -> Tensor:
    """Images (N, H, W, C) as (N, D) in C, H, W order minus ``shift``: float32 from uint8, float64 from floats."""
    pixels = torch.from_numpy(np.ascontiguousarray(block)).to(device)
    kind = torch.float32 if pixels.dtype == torch.uint8 else torch.float64
    ordered = pixels.permute(0, 3, 1, 2)
    return torch.empty(ordered.shape, dtype=kind, device=device).copy_(ordered).sub_(shift).flatten(1)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right, for int8 as int32: whole numbers either way."""
    return torch._int_mm(left.T.contiguous(), right.contiguous()) if left.dtype == torch.int8 else left.T @ right


def _variance(count: int, sums: Tensor, squares: Tensor) -> Tensor:
    # For uint8 count * squares and sums^2 are whole numbers, equal where a pixel is constant; one image that differs
    # by 1 among a million is still distinguished from it.
    excess = count * squares - sums.square()
    return torch.where(excess > 1e-12 * count * squares, excess, 0.0) / count**2


def _mean_and_std(count: int, sums: Tensor, squares: Tensor, shift: float) -> MeanAndStd:
    std = floor_std(_variance(count, sums, squares))
    return (sums / count + shift).cpu().numpy(), std.cpu().numpy()


def floor_std(variance: Tensor) -> Tensor:
    """Standard deviations that pixels are divided by, from their variances (any shape, float64).

    Each is at least ``STD_FLOOR`` of the root mean square over all pixels, constant pixels included. All are 1 where
    every pixel is constant.
    """
    floor = STD_FLOOR * variance.mean().sqrt()
    return torch.where(floor > 0, torch.maximum(variance.sqrt(), floor), 1.0)


def _stripes(size: int) -> list[tuple[int, int]]:
    step = -(-size // STRIPES)
    return [(start, min(start + step, size)) for start in range(0, size, step)]
