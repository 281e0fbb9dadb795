"""Bounds on the regret of a default ratio from paired seeds: differences to every rung, variances shared among rungs.

Model: accuracy = rung mean + seed effect + noise, each rung with a noise variance of its own. With few seeds each
variance is moderated toward the pooled one (Smyth 2004, *Statistical Applications in Genetics and Molecular Biology*
3(1), as in limma): the less the rungs differ in their variances, the more they share.

The regret is ``max_k mean_k - mean_default``, at least 0.

- *Upper* bound: the largest one-sided upper bound of "rung minus default". The default holds only if it is below the
  margin for every rung, which is an intersection-union test: no correction is due.
- *Lower* bound: the largest simultaneous lower bound of the differences, with Dunnett's critical value (Dunnett 1955)
  for as many rungs as are compared.

Simulated error rates are in ``benchmarks/verdict_power.py``.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # which loads its parts when they are used: planning a study needs none

MIN_SEEDS = 2
MAX_SEEDS = 1_000
CHANCE = 0.8  # with which the suggested number of seeds settles the verdict
VARIANCE_FLOOR = 0.05  # smallest variance of a rung, as a share of the pooled one
TINY = 1e-12


@dataclass(frozen=True)
class Noise:
    """Noise of single runs."""

    variances: np.ndarray  # (K,) moderated variance of each column
    freedom: float  # degrees of freedom of each moderated variance
    total_freedom: float  # degrees of freedom of the pooled variance, an upper limit for every bound
    pooled: float  # pooled variance


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of column means over the seeds that all its columns have."""

    estimate: float  # a fraction of accuracy
    error: float  # standard error; NaN with fewer than 2 seeds
    freedom: float  # degrees of freedom of ``error``
    seeds: int  # number of paired seeds
    constant: bool  # whether the sum is the same for every seed: such columns are copies, not measurements

    @property
    def usable(self) -> bool:
        """Whether the contrast has a bound."""
        return self.seeds >= MIN_SEEDS and math.isfinite(self.error)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at level 1 - ``alpha``; infinite where there is none."""
        return self.estimate + dunnett_critical_value(self.freedom, 1, alpha) * self.error if self.usable else math.inf

    def lower(self, alpha: float, family: int = 1) -> float:
        """One-sided lower bound; with ``family`` > 1 simultaneous for that many contrasts with one reference."""
        if not self.usable:
            return -math.inf
        return self.estimate - dunnett_critical_value(self.freedom, family, alpha) * self.error


def estimate_noise(accuracies: np.ndarray) -> Noise:
    """Variance of single runs at every rung, from (n, K) accuracies, NaN where a seed is missing; K >= 2."""
    cells = np.isfinite(accuracies)
    used = cells.sum(axis=1) > 1  # a seed with one accuracy says nothing about noise
    values, cells = accuracies[used], cells[used]
    seeds, rungs = cells.shape
    if seeds < MIN_SEEDS:
        return Noise(np.full(rungs, math.nan), math.nan, math.nan, math.nan)
    residuals, slack = _two_way_residuals(values, cells)
    total = float(round(slack.sum()))  # a whole number but for rounding errors
    if total < 1:
        return Noise(np.full(rungs, math.nan), math.nan, math.nan, math.nan)
    pooled = float((residuals**2).sum() / total)
    own_freedom = float(np.median(np.maximum(cells.sum(axis=0) - 1, 1)))
    if rungs < 3 or pooled < TINY:
        return Noise(np.full(rungs, pooled), total, total, pooled)
    # A residual mixes the noise of its rung with that of the others; undo it as for a complete table.
    mixed = (residuals**2).sum(axis=0) / np.maximum(slack.sum(axis=0), TINY) * (1 - 1 / rungs)
    own = (mixed - mixed.sum() / (1 - 1 / rungs) / rungs**2) / (1 - 2 / rungs)
    own = np.maximum(own, VARIANCE_FLOOR * pooled)
    prior = _prior_freedom(own, own_freedom)
    if not math.isfinite(prior):
        return Noise(np.full(rungs, pooled), total, total, pooled)
    moderated = (prior * pooled + own_freedom * own) / (prior + own_freedom)
    return Noise(moderated, prior + own_freedom, total, pooled)


def estimate_contrast(accuracies: np.ndarray, noise: Noise, weights: dict[int, float]) -> Contrast:
    """The sum of ``weights[k]`` times column k of (n, K) accuracies, averaged over the seeds that have all of them."""
    columns, factors = list(weights), np.array(list(weights.values()))
    rows = accuracies[:, columns]
    rows = rows[np.isfinite(rows).all(axis=1)]
    seeds = len(rows)
    if not seeds:
        return Contrast(math.nan, math.nan, math.nan, 0, False)
    sums = rows @ factors
    parts = factors**2 * noise.variances[columns]
    variance = float(parts.sum())
    freedom = variance**2 / float((parts**2).sum() / noise.freedom) if variance > 0 else noise.total_freedom
    return Contrast(
        estimate=float(sums.mean()),
        error=math.sqrt(variance / seeds) if seeds >= MIN_SEEDS and variance >= 0 else math.nan,
        freedom=min(freedom, noise.total_freedom),
        seeds=seeds,
        constant=seeds >= MIN_SEEDS and float(np.ptp(sums)) < TINY,
    )


def seeds_needed(differences: Sequence[Contrast], margin: float, alpha: float) -> int | None:
    """Further seeds that settle the verdict with a chance of 80 % if the noise stays and the estimates are right.

    None when no number up to 1,000 would, because a difference is about as large as the margin.
    """
    known = [c for c in differences if c.usable]
    if not known:
        return None
    estimates = np.array([c.estimate for c in known])
    scale = np.array([c.error * math.sqrt(c.seeds) for c in known])
    have = max(c.seeds for c in known)
    per_seed = np.array([c.freedom / max(c.seeds - 1, 1) for c in known])

    def settles(total: int) -> bool:
        freedom = per_seed * (total - 1)
        root = math.sqrt(total)
        high = estimates + (scipy.special.stdtrit(freedom, 1 - alpha) + scipy.special.ndtri(CHANCE)) * scale / root
        if high.max() < margin:
            return True
        strict = dunnett_critical_value(max(float(freedom.min()), 1.0), len(known), alpha)
        return bool((estimates - (strict + scipy.special.ndtri(CHANCE)) * scale / root).max() > margin)

    totals = range(have + 1, MAX_SEEDS + 1)
    first = bisect.bisect_left(totals, True, key=settles)  # both bounds tighten with every seed
    return first + 1 if first < len(totals) else None


def dunnett_critical_value(freedom: float, family: int, alpha: float) -> float:
    """One-sided critical value of ``family`` contrasts that share one reference (Dunnett 1955), equal variances."""
    if family == 1:
        return float(scipy.special.stdtrit(freedom, 1 - alpha))
    # The value hardly depends on many degrees of freedom; few distinct ones keep the cache small.
    rounded = round(freedom, 1) if freedom < 20 else float(round(freedom)) if freedom < 100 else round(freedom, -1)
    return _dunnett(math.inf if freedom > 500 else rounded, family, float(f"{alpha:.6g}"))


@functools.lru_cache(maxsize=4096)
def _dunnett(freedom: float, family: int, alpha: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    weights /= weights.sum()
    scale = np.ones(1)
    if math.isfinite(freedom):
        scale = np.sqrt(scipy.special.chdtri(freedom, 1 - (np.arange(96) + 0.5) / 96) / freedom)

    def miss(value: float) -> float:
        inside = scipy.special.ndtr(math.sqrt(2) * value * scale[:, None] - nodes) ** family @ weights
        return 1 - float(inside.mean()) - alpha

    # Between no correction and Bonferroni's, with room for the error of the quadrature.
    low, high = (
        float(scipy.special.stdtrit(min(freedom, 1e9), 1 - level)) for level in (1.1 * alpha, 0.9 * alpha / family)
    )
    if miss(low) < 0 or miss(high) > 0:  # below the accuracy of the quadrature: Bonferroni's value is on the safe side
        return float(scipy.special.stdtrit(min(freedom, 1e9), 1 - alpha / family))
    return float(scipy.optimize.brentq(miss, low, high, xtol=1e-4))


def _two_way_residuals(values: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n, K) of rung plus seed effects, 0 where empty, and each cell's share of the degrees of freedom."""
    seeds, rungs = cells.shape
    if cells.all():
        residuals = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        return residuals, np.full((seeds, rungs), (1 - 1 / seeds) * (1 - 1 / rungs))
    row, column = np.nonzero(cells)
    design = np.zeros((len(row), seeds + rungs))
    design[np.arange(len(row)), row] = 1
    design[np.arange(len(row)), seeds + column] = 1
    left, singular_values, _ = np.linalg.svd(design, full_matrices=False)
    left = left[:, singular_values > 1e-9 * singular_values[0]]
    observed = values[row, column]
    residuals, slack = np.zeros(cells.shape), np.zeros(cells.shape)
    residuals[row, column] = observed - left @ (left.T @ observed)
    slack[row, column] = 1 - (left**2).sum(axis=1)
    return residuals, slack


def _prior_freedom(variances: np.ndarray, freedom: float) -> float:
    """Degrees of freedom of the prior that the spread of log-variances implies (Smyth 2004, section 6.2)."""
    logs = np.log(variances)
    excess = float(logs.var(ddof=1) - scipy.special.polygamma(1, freedom / 2))
    if excess <= float(scipy.special.polygamma(1, 1e5)):
        return math.inf
    if excess >= float(scipy.special.polygamma(1, 1e-2)):
        return 2e-2
    return 2 * float(scipy.optimize.brentq(lambda x: float(scipy.special.polygamma(1, x)) - excess, 1e-2, 1e5))
