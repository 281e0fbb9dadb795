"""Eigenvectors of the pixels' covariance: all of them exactly, or the leading ones of a covariance too large to hold.

Where the covariance comes from is left to ``moments.py``; what the vectors are used for, to ``components.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from torch import Tensor

Device = torch.device | str

# On two CPU cores float64 takes 3 minutes at D = 12,288 and float32 half of it. float32 states each variance to about
# 1e-7 of the largest one and leaves columns orthonormal to 3e-6, which is why it is not used below this size.
SINGLE_PRECISION_ABOVE = 8192
MAX_PASSES = 12
TOLERANCE = 1e-5


class Eigen(NamedTuple):
    """Eigenvalues by falling size and their eigenvectors.

    Attributes:
        values: (K,) float64, none negative; exactly 0 where rounding cannot tell them from 0.
        vectors: (D, K) orthonormal columns; the entry of largest size in each column is positive.
        error_bound: Each value is at most this far from an eigenvalue; 0 stands for rounding alone.
    """

    values: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.floating]
    error_bound: float = 0.0


def symmetric_eigen(matrix: npt.NDArray[np.float64], device: Device = "cpu") -> Eigen:
    """All eigenvectors of a positive semi-definite matrix (D, D); the matrix may be overwritten.

    In float64, but float32 on the CPU above D = 8,192. Eigenvectors of eigenvalue 0 complete the orthonormal basis.
    """
    if torch.device(device).type == "cpu":
        if len(matrix) > SINGLE_PRECISION_ABOVE:
            matrix = matrix.astype(np.float32)
        # The transpose lies in memory as LAPACK wants it, so that it is overwritten instead of copied.
        values, vectors = scipy.linalg.eigh(matrix.T, driver="evd", overwrite_a=True, check_finite=False)
    else:
        values, vectors = (a.cpu().numpy() for a in torch.linalg.eigh(torch.from_numpy(matrix).to(device)))
    rounding = len(values) * np.finfo(values.dtype).eps * values[-1]
    values = np.where(values > rounding, values, 0).astype(np.float64)
    return Eigen(values[::-1].copy(), _with_fixed_signs(vectors[:, ::-1]))


def leading_eigen(
    blocks: Callable[[], Iterable[Tensor]], size: int, rank: int, device: Device = "cpu", seed: int = 0
) -> tuple[Eigen, float]:
    """The ``rank`` leading eigenvectors of the covariance of rows that are streamed, never held, and its trace.

    Randomised subspace iteration (Halko et al. 2011, Algorithm 4.4) with a Rayleigh-Ritz step in every pass; the
    libraries' versions want all rows in memory. It ends when the residuals ‖C v - λ v‖, which bound the error of each
    variance (the true error is about their square), are below 1e-5 of the summed variance, or after 12 passes.

    Args:
        blocks: Called once a pass; gives the centred rows as float32 (n, size) tensors on ``device``.
        size: D.
        rank: K, at most ``size``.
        device: Where it is computed.
        seed: Of the first guess.
    """
    width = min(size, rank + rank // 10 + 20)  # more than wanted: the last ones converge slowest
    guess = torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)
    for _ in range(MAX_PASSES):
        basis = torch.linalg.qr(guess).Q
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
    """Columns turned so that their entry of largest size is positive."""
    return vectors * np.where(vectors.max(0) >= -vectors.min(0), 1, -1).astype(vectors.dtype)
