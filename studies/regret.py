"""Regret of a default against the best arm, cross-fitted over paired seeds, with one-sided bounds.

Estimate: the best arm is picked on one half of the seeds by validation accuracy and its advantage over the default
measured on the other half by test accuracy, averaged over splits. On a flat curve its mean is 0; it can be negative.

Bounds are of two kinds, because missing the best arm pulls the estimate down, which is safe for one error only:

- *lower* bounds the cross-fitted regret itself;
- *upper* is the largest upper bound of "arm minus default" over all arms (intersection-union), so that a best arm
  that half of the seeds failed to pick cannot pass for no regret.

Each is the wider of Student's bound and of a percentile bootstrap of seeds that redoes the selection and is
stretched to small samples. Student's is needed: with 3 seeds a plain percentile bootstrap errs in a quarter of cases.
Noise that is strongly skewed over seeds is not covered: the errors are then above their nominal level.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

MOST_SPLITS = 64
BOOTSTRAP_SPLITS = 8
RESAMPLES = 400
MOST_SEEDS = 1_000
CHANCE = 0.8  # with which the named number of seeds settles the verdict


def halves(seeds: int, most: int = MOST_SPLITS, rng_seed: int = 0) -> np.ndarray:
    """Splits of n seeds as booleans (S, n), True where a seed helps to select; each split comes both ways round.

    All splits where there are at most ``most``, else as many random ones.
    """
    half = seeds // 2
    if math.comb(seeds, half) <= most:
        chosen = [[i in pick for i in range(seeds)] for pick in itertools.combinations(range(seeds), half)]
        splits = np.array(chosen, dtype=bool)
        return np.concatenate([splits, ~splits]) if seeds % 2 else splits
    rng = np.random.default_rng(rng_seed)
    ranks = rng.random((most // 2, seeds)).argsort(axis=1)
    return np.concatenate([ranks < half, ranks >= half])


@dataclass(frozen=True)
class Paired:
    """What all defaults of one comparison share: splits, picks and bootstrap replicates.

    Attributes:
        test: (n, K) test accuracies.
        splits: (S, n), True where a seed selects.
        picks: (S,) index of the arm that each split selected.
        replicates: (B, K) cross-fitted regret of each arm in each resample of the seeds, selection redone.
        means: (B, K) mean test accuracy of each arm in each resample.
    """

    test: np.ndarray
    splits: np.ndarray
    picks: np.ndarray
    replicates: np.ndarray
    means: np.ndarray


def pair(val: np.ndarray, test: np.ndarray, *, rng_seed: int = 0, resamples: int = RESAMPLES) -> Paired:
    """Prepare (n, K) accuracies, n >= 2 paired seeds and K arms, for :func:`estimate`."""
    seeds = len(val)
    splits = halves(seeds)
    weights = splits / splits.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(rng_seed)
    counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(float)
    return Paired(
        test=test,
        splits=splits,
        picks=(weights @ val).argmax(axis=1),
        replicates=_replicates(val, test, halves(seeds, BOOTSTRAP_SPLITS), counts),
        means=counts @ test / seeds,
    )


def _replicates(val: np.ndarray, test: np.ndarray, splits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # Copies of one seed stay in one half; otherwise a seed would select and measure at once.
    selecting, measuring = counts[:, None, :] * splits, counts[:, None, :] * ~splits
    usable = (selecting.sum(-1) > 0) & (measuring.sum(-1) > 0)
    picks = (selecting @ val).argmax(-1)  # sums order arms as means do
    weights = measuring * (usable / np.maximum(measuring.sum(-1), 1) / np.maximum(usable.sum(1), 1)[:, None])[..., None]
    best = (weights * test.T[picks]).sum(axis=(1, 2))
    return (best[:, None] - weights.sum(axis=1) @ test)[usable.any(axis=1)]


@dataclass(frozen=True)
class Estimate:
    """Cross-fitted regret of one default.

    Attributes:
        regret: Estimate, a fraction of accuracy.
        scores: (n,) contribution of each seed; their mean is ``regret``.
        error: Standard error of ``regret``, not below that of the picked arms' advantages.
        advantages: (K,) mean test advantage of each arm over the default.
        errors: (K,) their standard errors.
    """

    regret: float
    scores: np.ndarray
    error: float
    advantages: np.ndarray
    errors: np.ndarray
    replicates: np.ndarray
    advantage_replicates: np.ndarray

    @property
    def seeds(self) -> int:
        """Number of paired seeds."""
        return len(self.scores)

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at level 1 - ``alpha``."""
        student = self.regret - stdtrit(self.seeds - 1, 1 - alpha) * self.error
        if not len(self.replicates):
            return float(student)
        middle, low = np.quantile(self.replicates, (0.5, alpha))
        return float(min(student, self.regret - _stretch(self.seeds, alpha) * (middle - low)))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at level 1 - ``alpha``; never below the estimate."""
        student = self.advantages + stdtrit(self.seeds - 1, 1 - alpha) * self.errors
        middle, high = np.quantile(self.advantage_replicates, (0.5, 1 - alpha), axis=0)
        resampled = self.advantages + _stretch(self.seeds, alpha) * (high - middle)
        return float(max(student.max(), resampled.max(), self.regret))

    def p_fails(self, margin: float) -> float:
        """Student's p-value of "the regret is at most ``margin``"."""
        if self.error == 0:
            return float(self.regret <= margin)
        return float(1 - stdtr(self.seeds - 1, (self.regret - margin) / self.error))

    def seeds_needed(self, margin: float, alpha: float) -> int | None:
        """Further seeds that settle the verdict with a chance of 80 % if the estimates are right.

        None when no number up to 1,000 would, because the estimate lies at the margin.
        """
        root = math.sqrt(self.seeds)
        # The largest of several noisy means is too large; the cross-fitted regret is not.
        expected = np.minimum(self.advantages, max(self.regret, 0.0))
        for total in range(self.seeds + 1, MOST_SEEDS + 1):
            reach = (stdtrit(total - 1, 1 - alpha) + ndtri(CHANCE)) * root / math.sqrt(total)
            if (expected + reach * self.errors).max() < margin or self.regret - reach * self.error > margin:
                return total - self.seeds
        return None


def estimate(paired: Paired, default: int) -> Estimate:
    """Regret of arm ``default`` against the best arm."""
    seeds = len(paired.test)
    advantage = paired.test - paired.test[:, [default]]
    means = advantage.mean(axis=0)
    errors = advantage.std(axis=0, ddof=1) / math.sqrt(seeds)
    measuring = ~paired.splits
    per_split = advantage[:, paired.picks].T  # (S, n)
    weights = measuring / measuring.sum(axis=1, keepdims=True)
    scores = seeds * (per_split * weights).sum(axis=0) / len(weights)
    own = scores.std(ddof=1) / math.sqrt(seeds)
    # The scores' spread alone is too small when splits pick different arms.
    picked = math.sqrt(float((errors[paired.picks] ** 2).mean()))
    return Estimate(
        regret=float(scores.mean()),
        scores=scores,
        error=float(max(own, picked)),
        advantages=means,
        errors=errors,
        replicates=paired.replicates[:, default],
        advantage_replicates=paired.means - paired.means[:, [default]],
    )


def _stretch(seeds: int, alpha: float) -> float:
    """How much wider than the percentile bootstrap a bound must be with few seeds (1 with many)."""
    return float(math.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, 1 - alpha) / ndtri(1 - alpha))
