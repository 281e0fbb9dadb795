"""What holds over several data sets together: the joint verdict and aggregates of the regrets.

Joint verdict: *holds* when every comparison's upper bound is below the margin (intersection-union: no correction is
due); *fails* when a lower bound is above it after Holm's correction. Aggregates follow Agarwal et al. 2021 (rliable):
interquartile mean over data sets and seeds with a bootstrap stratified by comparison. Relative gains are not
averaged: one data set would dominate them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.regret import Estimate

RESAMPLES = 1_000
MOST_COPIES = 240  # per comparison, to give comparisons of unequal seeds the same weight
THRESHOLDS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)


@dataclass(frozen=True)
class Judged:
    """One row of a verdict and the estimate behind it; None where there was nothing to estimate."""

    row: dict[str, Any]
    estimate: Estimate | None


def overall(judged: Sequence[Judged], margin: float, alpha: float) -> dict[str, Any]:
    """The joint verdict on the default, and on the others of each kind, as JSON types."""
    main = _claimed([j for j in judged if j.row["kind"] == "default"])
    result = _joint(main, margin, alpha)
    result["mae_default"] = _joint(_claimed([j for j in judged if j.row["kind"] == "mae_default"]), margin, alpha)
    ratios = sorted({j.row["default_ratio"] for j in judged if j.row["kind"] == "rival"})
    rivals = [j for j in judged if j.row["kind"] == "rival"]
    result["rivals"] = [
        {
            "default_ratio": ratio,
            **_joint(_claimed([j for j in rivals if j.row["default_ratio"] == ratio]), margin, alpha),
        }
        for ratio in ratios
    ]
    return result


def holm_fails(estimates: Sequence[Estimate], margin: float, alpha: float) -> list[bool]:
    """Which regrets are above the margin after Holm's step-down correction over all of them."""
    order = np.argsort([e.p_fails(margin) for e in estimates])
    fails = [False] * len(estimates)
    for step, index in enumerate(order):
        if estimates[index].lower(alpha / (len(estimates) - step)) <= margin:
            break
        fails[index] = True
    return fails


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the lowest and highest quarter, as scipy's ``trim_mean(values, 0.25)``.

    Importing ``scipy.stats`` for it would take longer than judging 10,000 trials.
    """
    count = values.shape[-1]
    cut = count // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1))


def _stretched(values: np.ndarray, copies: int) -> np.ndarray:
    """The last axis with every entry repeated about equally often, ``copies`` entries in all."""
    return np.asarray(values[..., np.arange(copies) * values.shape[-1] // copies])


def _claimed(judged: list[Judged]) -> list[Judged]:
    """The papers' claim is about plain ratios of principal components or patches; others only where it is untested."""
    plain = [j for j in judged if j.row["strategy"] in (None, "fixed", "random") and j.row["basis"] in (None, "pca")]
    return plain or judged


def _joint(judged: Sequence[Judged], margin: float, alpha: float) -> dict[str, Any]:
    known = [(j, j.estimate) for j in judged if j.estimate is not None]
    estimates = [e for _, e in known]
    result: dict[str, Any] = {
        "verdict": "inconclusive",
        "margin": margin,
        "comparisons": len(known),
        "not_judged": len(judged) - len(known),
        "datasets": len({j.row["dataset"] for j, _ in known}),
        "largest_ci_high": max((j.row["ci_high"] for j, _ in known), default=None),
        "fails_on": [],
    }
    if not known:
        return result
    fails = holm_fails(estimates, margin, alpha)
    result["fails_on"] = sorted({j.row["dataset"] for (j, _), failed in zip(known, fails, strict=True) if failed})
    if any(fails):
        result["verdict"] = "fails"
    elif len(known) == len(judged) and all(j.row["ci_high"] < margin for j, _ in known):
        result["verdict"] = "holds"
    return {**result, **aggregates(estimates, margin)}


def aggregates(estimates: Sequence[Estimate], margin: float, rng_seed: int = 0) -> dict[str, Any]:
    """Interquartile mean of the seeds' regrets, chance that the regret is within the margin, performance profile.

    Bounds are percentiles at 5 and 95 % of a bootstrap of seeds within each comparison; with few seeds they are too
    narrow to decide anything, which is the verdict's business. Every comparison has the same weight, whatever its
    number of seeds.
    """
    rng = np.random.default_rng(rng_seed)
    drawn = [e.scores[rng.integers(e.seeds, size=(RESAMPLES, e.seeds))] for e in estimates]
    seeds = [e.seeds for e in estimates]
    copies = max(min(math.lcm(*seeds), MOST_COPIES), *seeds, 1)
    scores = np.concatenate([_stretched(e.scores, copies) for e in estimates])
    resampled = np.concatenate([_stretched(part, copies) for part in drawn], axis=1)
    low, high = np.quantile(interquartile_mean(resampled), (0.05, 0.95))
    within = [float((part.mean(axis=1) <= margin).mean()) for part in drawn]
    profile = []
    for threshold in THRESHOLDS:
        shares = (resampled <= threshold).mean(axis=1)
        bounds = np.quantile(shares, (0.05, 0.95))
        profile.append(
            {
                "regret": threshold,
                "share": float((scores <= threshold).mean()),
                "low": float(bounds[0]),
                "high": float(bounds[1]),
            }
        )
    return {
        "iqm": float(interquartile_mean(scores)),
        "iqm_low": float(low),
        "iqm_high": float(high),
        "probability_within_margin": float(np.mean(within)),
        "performance_profile": profile,
    }
