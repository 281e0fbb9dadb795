"""Accuracy as a smooth function of the ratio, from all trials of a patch setting, explored and confirmed.

A Gaussian process (scikit-learn) gives the curve with an interval, its optimum, and the *plateau*: the ratios within
the margin of the best. The plateau's width is the robustness that the PMAE paper claims over MAE. Whether the curve
is an inverted U is tested in ``inverted_u.py``; drawing is the report's business.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from studies.errors import StudyError

MOST_POINTS = 80  # a process over n points costs n cubed
GRID = 101
DRAWS = 400
LEAST_RATIOS = 4


@dataclass(frozen=True)
class RatioFit:
    """A fitted curve; intervals are the 5 and 95 % points of the posterior, accuracies are fractions.

    Attributes:
        grid: (101,) ratios from the lowest to the highest tried.
        mean, low, high: (101,) the curve and its interval (of the mean accuracy, without trial noise).
        optimum, optimum_low, optimum_high: Ratio of the best accuracy.
        plateau_low, plateau_high: Ratios around the optimum within ``margin`` of the best, on the mean curve.
        width, width_low, width_high: Width of the plateau in ratio.
        share, share_low, share_high: The same as a share of the tried range, which compares methods whose
            ranges differ.
        noise: Standard deviation of one trial.
        trials: How many trials were fitted.
    """

    grid: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    optimum: float
    optimum_low: float
    optimum_high: float
    plateau_low: float
    plateau_high: float
    width: float
    width_low: float
    width_high: float
    share: float
    share_low: float
    share_high: float
    noise: float
    trials: int
    margin: float

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def fit_curve(
    ratios: Sequence[float] | np.ndarray,
    accuracies: Sequence[float] | np.ndarray,
    *,
    margin: float = 0.01,
    within: tuple[float, float] | None = None,
    rng_seed: int = 0,
) -> RatioFit:
    """Fit accuracy over ratio; both (N,), one entry per trial.

    Args:
        ratios: Fractions in (0, 1).
        accuracies: Fractions; entries that are not finite are left out.
        margin: Depth of the plateau.
        within: (low, high): evaluate on this part of the range only, to compare methods on the same grid.
        rng_seed: Seed of the posterior draws.

    Raises:
        StudyError: fewer than 4 different ratios, or a range that was not tried.
    """
    x, y = np.asarray(ratios, dtype=float), np.asarray(accuracies, dtype=float)
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(np.unique(x)) < LEAST_RATIOS:
        raise StudyError(
            f"{len(np.unique(x))} ratios have an accuracy; a curve needs at least {LEAST_RATIOS}: try more trials"
        )
    low, high = (x.min(), x.max()) if within is None else within
    if low >= high or low < x.min() - 1e-9 or high > x.max() + 1e-9:
        raise StudyError(f"the range {low:g} to {high:g} was not tried; ratios go from {x.min():g} to {x.max():g}")
    grid = np.linspace(low, high, GRID)
    mean, deviation, draws, noise = _posterior(x, y, grid, rng_seed)
    (start,), (end,) = _plateau(grid, mean[None], margin)
    starts, ends = _plateau(grid, draws, margin)
    widths, tops, reach = ends - starts, grid[draws.argmax(axis=1)], high - low
    width = float(end - start)
    width_low, width_high = (float(v) for v in np.quantile(widths, (0.05, 0.95)))
    return RatioFit(
        grid=grid.tolist(),
        mean=mean.tolist(),
        low=(mean - 1.645 * deviation).tolist(),
        high=(mean + 1.645 * deviation).tolist(),
        optimum=float(grid[mean.argmax()]),
        optimum_low=float(np.quantile(tops, 0.05)),
        optimum_high=float(np.quantile(tops, 0.95)),
        plateau_low=float(start),
        plateau_high=float(end),
        width=width,
        width_low=width_low,
        width_high=width_high,
        share=float(width / reach),
        share_low=float(width_low / reach),
        share_high=float(width_high / reach),
        noise=noise,
        trials=len(x),
        margin=margin,
    )


def _posterior(
    x: np.ndarray, y: np.ndarray, grid: np.ndarray, rng_seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean, deviation and draws of the noise-free curve on the grid, and the noise of one trial."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    points, values, each = _condense(x, y)
    centre, scale = values.mean(), max(float(values.std()), 1e-6)
    span = x.max() - x.min()
    # An RBF would be too sure of its shape: its 90 % intervals of the plateau's width cover half of the truths.
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(0.3, (0.1, 3.0), nu=2.5) + WhiteKernel(0.1, (1e-5, 1e1))
    process = GaussianProcessRegressor(kernel, random_state=rng_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound is a flat or noiseless curve
        process.fit(((points - x.min()) / span)[:, None], (values - centre) / scale)
        mean, covariance = process.predict(((grid - x.min()) / span)[:, None], return_cov=True)
    white = process.kernel_.k2.noise_level
    covariance = covariance - white * np.eye(len(grid))  # of the curve, not of a further trial
    roots, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    normal = np.random.default_rng(rng_seed).standard_normal((DRAWS, len(grid)))
    draws = mean + normal @ (vectors * np.sqrt(np.clip(roots, 0, None))).T
    deviation = np.sqrt(np.clip(np.diag(covariance), 0, None))
    return centre + scale * mean, scale * deviation, centre + scale * draws, float(scale * np.sqrt(white * each))


def _condense(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """At most ``MOST_POINTS`` means over neighbours in ratio, all of about the same number of trials."""
    if len(x) <= MOST_POINTS:
        return x, y, 1.0
    parts = np.array_split(np.argsort(x, kind="stable"), MOST_POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts]), len(x) / MOST_POINTS


def _plateau(grid: np.ndarray, curves: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Ratios, (M,) each, between which (M, G) curves stay within the margin of their maximum, around its place.

    Crossings are interpolated: the grid's points inside would make every plateau a step too narrow.
    """
    size = curves.shape[1]
    places, tops = np.arange(size), curves.argmax(axis=1)
    floor = curves.max(axis=1, keepdims=True) - margin
    outside = curves < floor
    before = np.where(outside & (places < tops[:, None]), places, -1).max(axis=1) + 1
    after = np.where(outside & (places > tops[:, None]), places, size).min(axis=1) - 1
    return _crossing(grid, curves, floor, before, -1), _crossing(grid, curves, floor, after, 1)


def _crossing(grid: np.ndarray, curves: np.ndarray, floor: np.ndarray, inside: np.ndarray, step: int) -> np.ndarray:
    """Where each curve meets its floor between the grid point ``inside`` and the next one; the end of the grid else."""
    rows, beyond = np.arange(len(curves)), np.clip(inside + step, 0, len(grid) - 1)
    above, below = curves[rows, inside] - floor[:, 0], floor[:, 0] - curves[rows, beyond]
    share = np.where(below > 0, above / np.where(below > 0, above + below, 1), 0)
    return np.asarray(grid[inside] + share * (grid[beyond] - grid[inside]))
