"""Error rates of whole verdicts over many simulated studies with known truth; slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from studies.verdict import judge

pytestmark = pytest.mark.slow
MARGIN, DEFAULT = 0.01, 0.2
RATIOS = np.array([0.1, 0.2, 0.3, 0.4, 0.6])
# Accuracy over the ratio, in margins below the best; the default's is the true regret.
CURVES = {
    "peaked at the margin": np.array([-2, -1, 0, -1.5, -4]),
    "shifted at the margin": np.array([-1.5, -1, -0.5, -0.2, 0]),
    "one spike at the margin": np.array([-1, -1, -1, -1, 0]),
}
SPREADS = {
    "equal": np.full(5, 0.5),
    "rising": np.array([0.2, 0.3, 0.5, 0.8, 1.2]),
    "default": np.array([0.3, 1, 0.3, 0.3, 0.3]),
}


def study(
    rng: np.random.Generator, curve: np.ndarray, spread: np.ndarray, seeds: int, lost: float = 0.0, dataset: str = "d"
) -> pa.Table:
    """Confirmed trials; a share ``lost`` of them failed. Both splits of a seed share its level and training noise."""
    shape = (seeds, len(RATIOS))
    level, training = 2 * rng.standard_normal((seeds, 1)), rng.standard_normal(shape)
    noise = (spread * (0.8 * training + 0.6 * rng.standard_normal(shape)) for _ in ("val", "test"))
    val, test = (0.7 + MARGIN * (curve + level + own) for own in noise)
    done = rng.random(shape) >= lost
    rows: list[dict[str, Any]] = [
        {
            "dataset": dataset, "method": "pmae", "ratio": float(ratio), "seed": seed, "phase": "confirm",
            "status": "done" if done[seed, k] else "failed",
            "val_linear": float(val[seed, k]) if done[seed, k] else None,
            "test_linear": float(test[seed, k]) if done[seed, k] else None,
        }
        for seed in range(seeds) for k, ratio in enumerate(RATIOS)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def outcomes(tables: list[pa.Table]) -> dict[str, int]:
    """How many of the studies' joint verdicts hold and fail."""
    found = [judge(table, margin=MARGIN, default_ratio=DEFAULT, rivals=()).overall["verdict"] for table in tables]
    return {name: found.count(name) for name in ("holds", "fails")}


def at_most(share: float, count: int, repeats: int) -> bool:
    return bool(binomtest(count, repeats, share, alternative="greater").pvalue > 1e-3)


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("curve", CURVES)
def test_at_the_margin_false_verdicts_are_rare(curve: str, spread: str, seeds: int) -> None:
    rng, repeats = np.random.default_rng([seeds, *map(ord, curve + spread)]), 250
    found = outcomes([study(rng, CURVES[curve], SPREADS[spread], seeds) for _ in range(repeats)])
    assert at_most(0.05, found["holds"], repeats) and at_most(0.05, found["fails"], repeats), found


def test_lost_trials_do_not_make_verdicts_bolder() -> None:
    rng, repeats = np.random.default_rng(11), 250
    curve, spread = CURVES["peaked at the margin"], SPREADS["rising"]
    found = outcomes([study(rng, curve, spread, 12, lost=0.06) for _ in range(repeats)])
    assert at_most(0.05, found["holds"], repeats) and at_most(0.05, found["fails"], repeats), found


def test_over_four_data_sets_a_joint_verdict_is_no_bolder() -> None:
    rng, repeats = np.random.default_rng(12), 120
    at_margin, flat = CURVES["peaked at the margin"], np.zeros(5)
    spread = SPREADS["equal"] / 4

    def several(curves: list[np.ndarray]) -> pa.Table:
        return pa.concat_tables([study(rng, c, spread, 6, dataset=f"d{n}") for n, c in enumerate(curves)])

    found = outcomes([several([at_margin] * 4) for _ in range(repeats)])
    assert at_most(0.05, found["fails"], repeats), found
    found = outcomes([several([at_margin, flat, flat, flat]) for _ in range(repeats)])
    assert at_most(0.05, found["holds"], repeats), found


def test_power_grows_with_seeds() -> None:
    rng, repeats = np.random.default_rng(13), 60
    flat, steep = np.zeros(5), 2.5 * CURVES["peaked at the margin"]

    def share(verdict: str, curve: np.ndarray, seeds: int) -> float:
        tables = [study(rng, curve, np.full(5, 0.6), seeds) for _ in range(repeats)]
        return outcomes(tables)[verdict] / repeats

    held = [share("holds", flat, seeds) for seeds in (5, 10, 20)]
    failed = [share("fails", steep, seeds) for seeds in (5, 10, 20)]
    assert held[0] < held[1] < held[2] and held[2] > 0.95
    assert failed[0] <= failed[1] <= failed[2] and failed[1] > 0.95


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_mean_regret_of_flat_curves_is_zero(seeds: int) -> None:
    rng, regrets = np.random.default_rng(seeds), []
    for _ in range(400):
        (row,) = judge(study(rng, np.zeros(5), SPREADS["rising"], seeds), rivals=()).rows
        regrets.append(row["regret"])
    assert abs(np.mean(regrets)) < 3.3 * np.std(regrets) / np.sqrt(len(regrets))
