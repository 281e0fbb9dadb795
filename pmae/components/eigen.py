"""Eigenvectors of the pixel covariance: all of them, those of few images, or the leading ones of a large matrix.

LAPACK cannot be interrupted, so long calls run in a thread while the calling thread waits and hears Ctrl-C.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Device = torch.device | str
T = TypeVar("T")

MAX_PASSES = 12
TOLERANCE = 1e-5
# Below this share of the largest variance, columns from the Gram matrix lose orthogonality in float32 and are
# orthonormalized again.
REORTHONORMALIZE_BELOW = 1e-8
THREAD_FROM = 512  # rows of a matrix; smaller ones take milliseconds


class Eigen(NamedTuple):
    """Eigenvalues in descending order and their eigenvectors.

    Attributes:
        values: (K,) float64, none negative; exactly 0 where rounding cannot tell them from 0.
        vectors: (D, K) orthonormal columns; the entry of largest magnitude in each column is positive.
        error_bound: Each value is at most this far from an eigenvalue; 0 stands for rounding alone.
    """

    values: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.floating]
    error_bound: float = 0.0


def run_interruptibly(work: Callable[[], T], tick: Callable[[int], None] | None = None) -> T:
    """Return ``work()``, run in a thread so that Ctrl-C ends the wait at once.

    Args:
        work: A long call that releases the interpreter lock, such as ``numpy.linalg.eigh``.
        tick: Called about once a second with the number of seconds since the previous call.
    """
    result: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # raised again in the calling thread
            errors.append(error)

    thread = threading.Thread(target=run, name="linear-algebra", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(1.0)
        if tick is not None and thread.is_alive():
            tick(1)
    if errors:
        raise errors[0]
    return result[0]


def symmetric_eigen(
    matrix: npt.NDArray[np.float64], device: Device = "cpu", tick: Callable[[int], None] | None = None
) -> Eigen:
    """All eigenvectors of a positive semi-definite matrix (D, D), in float64.

    Eigenvectors of eigenvalue 0 complete the orthonormal basis. On two CPU cores D = 12,288 takes three minutes.
    float32 would halve that, but its rounding hides all variances below about 1e-7 of the largest times D.
    """

    def compute() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if torch.device(device).type == "cpu":
            values, vectors = np.linalg.eigh(matrix)
            return values, vectors
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix).to(device))
        return values.cpu().numpy(), vectors.cpu().numpy()

    values, vectors = run_interruptibly(compute, tick) if len(matrix) >= THREAD_FROM else compute()
    rounding = len(values) * np.finfo(values.dtype).eps * values[-1]
    values = np.where(values > rounding, values, 0)
    return Eigen(values[::-1].copy(), _with_fixed_signs(vectors[:, ::-1]))


def gram_eigen(
    stripes: Callable[[], Iterable[Tensor]],
    count: int,
    rank: int | None = None,
    device: Device = "cpu",
    tick: Callable[[int], None] | None = None,
) -> tuple[Eigen, float]:
    """The eigenvectors with variance of the covariance of ``count`` rows in D dimensions, and its trace.

    X Xᵀ / N (N x N) and Xᵀ X / N (D x D) share their nonzero eigenvalues, and v = Xᵀ u / sqrt(N λ). For N below D
    this is faster by about (D / N)² and needs no D x D matrix.

    Args:
        stripes: Called twice; yields the centered data float64 (N, d) in stripes of columns, in the order of D.
        count: N.
        rank: Keep at most this many leading eigenvectors; None keeps all with variance.
        device: Where it is computed.
        tick: As for :func:`run_interruptibly`.
    """
    gram = torch.zeros(count, count, dtype=torch.float64, device=device)
    for x in stripes():
        gram.addmm_(x, x.T)
    eigen = symmetric_eigen((gram / count).cpu().numpy(), device, tick)
    total = float(eigen.values.sum())
    kept = min(int(np.count_nonzero(eigen.values)), count if rank is None else rank)
    values = eigen.values[:kept]
    weights = torch.from_numpy(eigen.vectors[:, :kept] / np.sqrt(count * values)).to(device)
    vectors = np.concatenate([(x.T @ weights).cpu().numpy() for x in stripes()])
    if kept and values[-1] < REORTHONORMALIZE_BELOW * values[0]:
        vectors = run_interruptibly(lambda: np.linalg.qr(vectors).Q, tick)
    return Eigen(values, _with_fixed_signs(vectors)), total


def leading_eigen(
    blocks: Callable[[], Iterable[Tensor]], size: int, rank: int, device: Device = "cpu", seed: int = 0
) -> tuple[Eigen, float]:
    """The ``rank`` leading eigenvectors of the covariance of rows that are streamed, never held, and its trace.

    Randomized subspace iteration (Halko et al. 2011, Algorithm 4.4) with a Rayleigh-Ritz step in every pass; the
    libraries' versions need all rows in memory. It ends when the residuals ‖C v - λ v‖, which bound the error of each
    variance (the true error is about their square), are below 1e-5 of the total variance, or after 12 passes.
    Every variance is underestimated, so their sum errs by at most K times the bound.

    Args:
        blocks: Called once a pass; gives the centered rows as float32 (n, size) tensors on ``device``.
        size: D.
        rank: K, at most ``size``.
        device: Where it is computed.
        seed: Random seed of the first guess.
    """
    width = min(size, rank + rank // 10 + 20)  # more than wanted: the last ones converge slowest
    guess = torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)
    for _ in range(MAX_PASSES):
        basis = _orthonormal(guess)
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


def _orthonormal(columns: Tensor) -> Tensor:
    return run_interruptibly(lambda: torch.linalg.qr(columns).Q)


def _with_fixed_signs(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The same array, its columns with signs such that the entry of largest magnitude is positive."""
    vectors *= np.where(vectors.max(0) >= -vectors.min(0), 1, -1).astype(vectors.dtype)
    return vectors
