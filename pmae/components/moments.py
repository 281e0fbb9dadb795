"""Sums over training images, which are exact integers for uint8, and the eigenvectors of their covariance.

:class:`TrainingImages` reads the images block by block, :class:`PixelMoments` adds up products of their pixels.
Eigenvectors: all of a covariance, those of a Gram matrix for few images, or the leading ones of a large covariance.
LAPACK cannot be interrupted, so long calls run in a thread and Ctrl-C still works.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pmae.data.progress import progress_bar
from pmae.errors import DataError

Float64s = npt.NDArray[np.float64]
MeanAndStd = tuple[Tensor, Tensor]  # (D,) each, float64
Device = torch.device | str
Shape = tuple[int, int, int]  # (C, H, W)
T = TypeVar("T")

# A pixel minus 128 is at most 128 in size, so sums of 1,024 products stay within the 2^24 up to which float32 holds
# every integer: the block's product is exact, in TF32 as well, and float64 adds the blocks up without rounding.
BLOCK_ROWS = 1024
UINT8_SHIFT = 128.0
# A pixel's standard deviation is at least this share of the root mean square over all pixels. Without it a crop that
# moves a stroke into an almost constant border produces values of hundreds of standard deviations.
STD_FLOOR = 0.25
# The matrix is symmetric: with 12 stripes 13/24 of the products are computed instead of all.
STRIPES = 12
MAX_PASSES = 12
TOLERANCE = 1e-5
# Below this share of the largest variance, columns from the Gram matrix lose orthogonality in float32 and are
# orthonormalized again.
REORTHONORMALIZE_BELOW = 1e-8
THREAD_FROM = 512  # rows of a matrix; smaller ones take milliseconds
LONG_EIGEN = 2048  # rows of a matrix whose eigenvectors take more than a moment


class PixelMoments:
    """Number of images, sums of their pixels (D,) and of products of pixel pairs (D, D, upper triangle), in float64.

    Pixels are in C, H, W order and minus ``shift``: 128 for uint8 images, whose sums are exact integers, 0 for floats.
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
            integers = self.shift == UINT8_SHIFT and self.device.type == "cpu" and cpu_has_vnni()
            pixels = pixels.to(torch.int8) if integers else pixels
            for start, end in _stripes(len(self.sums)):
                left, right = pixels[:, start:end].T, pixels[:, start:]
                product = torch._int_mm(left.contiguous(), right.contiguous()) if integers else left @ right
                self.products[start:end, start:] += product

    def mean_and_std(self) -> MeanAndStd:
        """(D,) mean and population standard deviation in the images' units, floored by :func:`floor_std`."""
        return _mean_and_std(self.count, self.sums, self.products.diagonal(), self.shift)

    def correlation(self) -> Float64s:
        """(D, D) covariance of the standardized pixels, both triangles; a constant pixel's row is zero."""
        if self.count < 2:
            raise DataError(f"components need at least 2 images, there are {self.count}; raise limit or add images")
        variance = _variance(self.count, self.sums, self.products.diagonal())
        weight = torch.where(variance > 0, floor_std(variance).reciprocal(), 0.0) / self.count
        result = torch.empty_like(self.products)
        for start, end in _stripes(len(self.sums)):
            # Striped, so that no third matrix of this size is made. For uint8 all is whole numbers until the weights.
            part = self.products[start:end, start:] * self.count
            part -= self.sums[start:end, None] * self.sums[start:]
            part *= weight[start:end, None] * weight[start:]
            square = part[:, : end - start].triu()
            part[:, : end - start] = square + square.triu(1).T
            result[start:end, start:] = part
            result[start:, start:end] = part.T
        return result.cpu().numpy()


class TrainingImages:
    """The training images that components are fitted on, read in blocks: a memory map is never read as a whole.

    ``images`` are (N, H, W, C) uint8, or float in any unit (else a DataError), of which those at ``indices`` (M,)
    count. ``fingerprint`` is a hex hash of these, or of the set they are from and their indices.
    """

    def __init__(self, images: np.ndarray, indices: npt.NDArray[np.int64], fingerprint: str | None = None) -> None:
        if images.ndim != 4 or (images.dtype != np.uint8 and images.dtype.kind != "f"):
            raise DataError(f"images are {images.dtype} {images.shape}; they must be uint8 or float (N, H, W, C)")
        self.images, self.indices = images, indices
        self.shape = channels_first(images)
        self.shift = UINT8_SHIFT if images.dtype == np.uint8 else 0.0
        self._given = fingerprint

    @classmethod
    def of(cls, images: Any) -> TrainingImages:
        """The ``train`` split of an image set, or all of an array (N, H, W, C); DataError for fewer than 2 images."""
        if hasattr(images, "indices") and hasattr(images, "images"):
            data = cls(images.images, np.asarray(images.indices("train")), getattr(images, "fingerprint", None))
        else:
            array = np.asarray(images)
            data = cls(array, np.arange(len(array)))
        if data.count < 2:
            raise DataError(f"components need at least 2 training images, there are {data.count}; raise limit")
        return data

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
        if self._given is not None:
            return hashlib.sha256(f"{self._given} ".encode() + self.indices.astype("<i8").tobytes()).hexdigest()
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    def blocks(self, title: str = "") -> Iterator[np.ndarray]:
        """Images (n, H, W, C), about a thousand at a time; with a ``title`` the progress is shown."""
        with progress_bar(title, self.count, unit="images", shown=bool(title)) as advance:
            for start in range(0, self.count, BLOCK_ROWS):
                block = self.images[self.indices[start : start + BLOCK_ROWS]]
                yield block
                advance(len(block))

    def moments(self, device: Device = "cpu", progress: bool = False) -> PixelMoments:
        """Their sums and products."""
        moments = PixelMoments(self.shape, device=device, shift=self.shift)
        for block in self.blocks("summing products of pixels" if progress else ""):
            moments.update(block)
        return moments

    def mean_and_std(self, device: Device = "cpu") -> MeanAndStd:
        """As :meth:`PixelMoments.mean_and_std`, without products of pairs."""
        sums, squares = (torch.zeros(self.size, dtype=torch.float64, device=device) for _ in range(2))
        for block in self.blocks():
            pixels = shifted_pixels(block, self.shift, device)
            sums += pixels.sum(0, dtype=torch.float64)
            squares += pixels.square().sum(0, dtype=torch.float64)
        return _mean_and_std(self.count, sums, squares, self.shift)

    def standardized_blocks(self, mean: Tensor, std: Tensor, title: str = "") -> Iterator[Tensor]:
        """Standardized images, float32 (n, D) on the device of ``mean`` and ``std``."""
        center = mean - self.shift
        for block in self.blocks(title):
            yield ((shifted_pixels(block, self.shift, mean.device) - center) / std).float()


def cpu_has_vnni() -> bool:
    """Whether the CPU multiplies 8-bit integers in hardware; elsewhere torch does it a hundred times slower."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)  # not in every torch
    return supported is not None and bool(supported())


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


def _variance(count: int, sums: Tensor, squares: Tensor) -> Tensor:
    # For uint8 these are whole numbers: one image among a million that differs by 1 is distinguished from none.
    excess = count * squares - sums.square()
    return torch.where(excess > 1e-12 * count * squares, excess, 0.0) / count**2


def _mean_and_std(count: int, sums: Tensor, squares: Tensor, shift: float) -> MeanAndStd:
    return sums / count + shift, floor_std(_variance(count, sums, squares))


def floor_std(variance: Tensor) -> Tensor:
    """Deviations from variances (float64), at least ``STD_FLOOR`` of their root mean; 1 where all are constant."""
    floor = STD_FLOOR * variance.mean().sqrt()
    return torch.where(floor > 0, torch.maximum(variance.sqrt(), floor), 1.0)


def _stripes(size: int) -> list[tuple[int, int]]:
    step = -(-size // STRIPES)
    return [(start, min(start + step, size)) for start in range(0, size, step)]


class Eigen(NamedTuple):
    """Eigenvalues in descending order and their eigenvectors.

    Attributes:
        values: (K,) float64, none negative; exactly 0 where rounding cannot tell them from 0.
        vectors: (D, K) orthonormal columns; the entry of largest magnitude in each column is positive.
        error_bound: Each value is at most this far from an eigenvalue; 0 stands for rounding alone.
    """

    values: Float64s
    vectors: npt.NDArray[np.floating]
    error_bound: float = 0.0


def run_interruptibly(work: Callable[[], T], rows: int = 0, progress: bool = False) -> T:
    """Return ``work()``, run in a thread so that Ctrl-C ends the wait; for a matrix of many ``rows`` with progress."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="linear-algebra", daemon=True).start()
    title = f"eigenvectors of a {rows:,} x {rows:,} matrix"
    with progress_bar(title, None, unit="seconds", shown=progress and rows >= LONG_EIGEN) as advance:
        while not wait([future], timeout=1.0).done:
            advance(1)
    return future.result()


def symmetric_eigen(matrix: Float64s, device: Device = "cpu", progress: bool = False) -> Eigen:
    """All eigenvectors of a positive semi-definite matrix (D, D), in float64; those of value 0 complete the basis."""

    def compute() -> tuple[Float64s, Float64s]:
        if torch.device(device).type == "cpu":
            values, vectors = np.linalg.eigh(matrix)
            return values, vectors
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix).to(device))
        return values.cpu().numpy(), vectors.cpu().numpy()

    rows = len(matrix)
    values, vectors = run_interruptibly(compute, rows, progress) if rows >= THREAD_FROM else compute()
    rounding = len(values) * np.finfo(values.dtype).eps * values[-1]
    values = np.where(values > rounding, values, 0)
    return Eigen(values[::-1].copy(), _with_fixed_signs(vectors[:, ::-1]))


def gram_eigen(
    stripes: Callable[[], Iterable[Tensor]],
    count: int,
    rank: int | None = None,
    device: Device = "cpu",
    progress: bool = False,
) -> tuple[Eigen, float]:
    """The eigenvectors with variance of the covariance of ``count`` = N rows in D dimensions, and its trace.

    X Xᵀ / N (N x N) and Xᵀ X / N (D x D) share their nonzero eigenvalues, and v = Xᵀ u / sqrt(N λ). ``stripes`` is
    called twice and yields the centered data float64 (N, d) in stripes of columns; ``rank`` limits the eigenvectors.
    """
    gram = torch.zeros(count, count, dtype=torch.float64, device=device)
    for x in stripes():
        gram.addmm_(x, x.T)
    eigen = symmetric_eigen((gram / count).cpu().numpy(), device, progress)
    total = float(eigen.values.sum())
    kept = min(int(np.count_nonzero(eigen.values)), count if rank is None else rank)
    values = eigen.values[:kept]
    weights = torch.from_numpy(eigen.vectors[:, :kept] / np.sqrt(count * values)).to(device)
    vectors = np.concatenate([(x.T @ weights).cpu().numpy() for x in stripes()])
    if kept and values[-1] < REORTHONORMALIZE_BELOW * values[0]:
        vectors = run_interruptibly(lambda: np.linalg.qr(vectors).Q, count, progress)
    return Eigen(values, _with_fixed_signs(vectors)), total


def leading_eigen(
    blocks: Callable[[], Iterable[Tensor]], size: int, rank: int, device: Device = "cpu", seed: int = 0
) -> tuple[Eigen, float]:
    """The ``rank`` leading eigenvectors of the covariance of rows that are streamed, never held, and its trace.

    Randomized subspace iteration (Halko et al. 2011, Algorithm 4.4) with a Rayleigh-Ritz step in every pass; the
    libraries' versions need all rows in memory. It ends when the residuals ‖C v - λ v‖, which bound the error of each
    variance, are below 1e-5 of the total variance, or after 12 passes. ``blocks``, called once a pass, gives the
    centered rows as float32 (n, size) tensors on ``device``.
    """
    width = min(size, rank + rank // 10 + 20)  # more than wanted: the last ones converge slowest
    guess = torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)
    for _ in range(MAX_PASSES):
        basis = run_interruptibly(partial(torch.linalg.qr, guess)).Q
        product, variance = _covariance_times(blocks, basis)
        projected = basis.T @ product
        values, rotation = torch.linalg.eigh((projected + projected.T) / 2)
        values, rotation = values.flip(0)[:rank], rotation.flip(1)[:, :rank]
        vectors = basis @ rotation
        bound = float((product @ rotation - vectors * values).norm(dim=0).max())
        if bound <= TOLERANCE * variance:
            break
        guess = product
    return Eigen(values.clamp_min(0).cpu().numpy(), _with_fixed_signs(vectors.cpu().numpy()), bound), variance


def _covariance_times(blocks: Callable[[], Iterable[Tensor]], basis: Tensor) -> tuple[Tensor, float]:
    """C V and the trace of C, in one pass."""
    product, single, count = torch.zeros_like(basis), basis.float(), 0
    squares = torch.zeros((), dtype=torch.float64, device=basis.device)
    for rows in blocks():
        product += rows.T @ (rows @ single)
        squares += rows.square().sum(dtype=torch.float64)
        count += len(rows)
    return product / count, float(squares) / count


def _with_fixed_signs(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The same array, its columns with signs such that the entry of largest magnitude is positive."""
    vectors *= np.where(vectors.max(0) >= -vectors.min(0), 1, -1).astype(vectors.dtype)
    return vectors
