"""The statistics by simulation with known truth: bias, error rates, and what naive methods would say instead."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from studies.regret import Estimate, estimate, halves, pair

MARGIN = 0.01


def simulate(means: list[float], sd: list[float], seeds: int, repeats: int, rng_seed: int) -> list[Estimate]:
    """Estimates for arm 0 over ``repeats`` draws of (seeds, K) accuracies; the two splits share training noise."""
    rng = np.random.default_rng(rng_seed)
    found = []
    for _ in range(repeats):
        shape, spread = (seeds, len(means)), np.array(sd)
        level, training = 0.05 * rng.standard_normal((seeds, 1)), rng.standard_normal(shape)
        val, test = (
            0.8 + np.array(means) + level + spread * (0.8 * training + 0.6 * rng.standard_normal(shape)) for _ in "vt"
        )
        found.append(estimate(pair(val, test, resamples=200), 0))
    return found


def at_most(share: float, count: int, repeats: int) -> bool:
    """Whether ``count`` of ``repeats`` is compatible with a rate of at most ``share`` (1 in 1,000 would be refused)."""
    return bool(stats.binomtest(count, repeats, share, alternative="greater").pvalue > 1e-3)


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_regret_on_a_flat_curve_is_zero_where_the_naive_one_is_more_than_a_deviation(seeds: int) -> None:
    sd, repeats = 0.01, 500
    found = simulate([0.0] * 6, [sd] * 6, seeds, repeats, rng_seed=seeds)
    regrets = np.array([e.regret for e in found])
    assert abs(regrets.mean()) < 3.5 * regrets.std() / math.sqrt(repeats)
    naive = np.mean([e.advantages.max() for e in found]) / (sd / math.sqrt(seeds))
    assert 1.15 < naive < 1.4  # expected: 1.27 deviations of a mean for 6 arms


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
@pytest.mark.parametrize(
    ("means", "sd"),
    [
        ([0, 0, 0, 0, 0, 1], [1.0] * 6),  # half of the seeds often pick another arm
        ([0, 1, 1, 1, 1, 1], [0.3, 0.6, 0.9, 1.2, 1.5, 2]),
        ([0, -3, -3, 1], [2, 0.4, 0.4, 0.4]),
    ],
    ids=["one best", "all better, uneven noise", "default noisiest"],
)
def test_false_verdicts_at_the_margin_are_rare(seeds: int, means: list[float], sd: list[float]) -> None:
    repeats = 300
    found = simulate([m * MARGIN for m in means], [s * MARGIN for s in sd], seeds, repeats, rng_seed=seeds)
    assert at_most(0.05, sum(e.upper(0.05) < MARGIN for e in found), repeats)
    assert at_most(0.05, sum(e.lower(0.05) > MARGIN for e in found), repeats)


def test_an_upper_bound_of_the_cross_fitted_mean_alone_would_hold_falsely() -> None:
    repeats, seeds = 300, 10
    found = simulate([0, 0, 0, 0, 0, MARGIN], [MARGIN] * 6, seeds, repeats, rng_seed=4)
    quantile = stats.t.ppf(0.95, seeds - 1)
    naive = sum(e.regret + quantile * e.error < MARGIN for e in found)
    assert not at_most(0.05, naive, repeats)  # why the upper bound looks at every arm


def test_a_verdict_settles_more_often_with_more_seeds() -> None:
    held = [
        sum(e.upper(0.05) < MARGIN for e in simulate([0.0] * 5, [0.004] * 5, seeds, 150, rng_seed=1)) / 150
        for seeds in (3, 5, 10)
    ]
    failed = [
        sum(e.lower(0.05) > MARGIN for e in simulate([0, 0, 2 * MARGIN], [0.005] * 3, seeds, 150, rng_seed=2)) / 150
        for seeds in (3, 5, 10)
    ]
    assert held[0] < held[1] < held[2] and held[2] > 0.95
    assert failed[0] < failed[1] <= failed[2] and failed[2] > 0.95


def test_two_arms_and_a_clear_best_give_students_interval() -> None:
    rng = np.random.default_rng(0)
    test = 0.8 + 0.002 * rng.standard_normal((12, 2)) + np.array([0, 0.05])
    found = estimate(pair(test, test), 0)
    difference = test[:, 1] - test[:, 0]
    low, high = (difference.mean() + side * stats.t.ppf(0.95, 11) * stats.sem(difference) for side in (-1, 1))
    assert found.regret == pytest.approx(difference.mean())
    assert found.error == pytest.approx(stats.sem(difference))
    assert found.lower(0.05) <= low + 1e-12 and found.upper(0.05) >= high - 1e-12
    assert found.lower(0.05) == pytest.approx(low, abs=6e-4) and found.upper(0.05) == pytest.approx(high, abs=6e-4)
    expected = stats.ttest_1samp(difference, 0.049, alternative="greater").pvalue
    assert found.p_fails(0.049) == pytest.approx(expected)


def test_seeds_needed_are_about_enough() -> None:
    first = simulate([0.0] * 4, [0.006] * 4, 5, 40, rng_seed=3)
    open_ones = [e for e in first if e.upper(0.05) >= MARGIN and e.lower(0.05) <= MARGIN]
    needed = [e.seeds_needed(MARGIN, 0.05) for e in open_ones]
    total = 5 + int(np.median([n for n in needed if n is not None]))
    settled = [e.upper(0.05) < MARGIN for e in simulate([0.0] * 4, [0.006] * 4, total, 60, rng_seed=4)]
    assert np.mean(settled) > 0.5


def test_no_number_of_seeds_settles_an_estimate_at_the_margin() -> None:
    test = 0.8 + np.array([[0, 0.010, 0.0], [0, 0.011, 0.001], [0, 0.009, -0.001]])
    found = estimate(pair(test, test), 0)
    assert found.regret == pytest.approx(MARGIN)
    assert found.seeds_needed(MARGIN, 0.05) is None


@given(seeds=st.integers(2, 30))
@settings(max_examples=15, deadline=None)
def test_splits_use_every_seed_on_both_sides(seeds: int) -> None:
    splits = halves(seeds)
    assert splits.any(axis=1).all() and (~splits).any(axis=1).all()
    assert splits.any(axis=0).all() and (~splits).any(axis=0).all()
    assert np.isin(splits.sum(axis=1), (seeds // 2, seeds - seeds // 2)).all()
    as_set = {tuple(split) for split in splits}
    assert {tuple(~np.array(split)) for split in as_set} == as_set  # each comes both ways round


@given(rng_seed=st.integers(0, 10_000), seeds=st.integers(2, 8), arms=st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_the_estimate_equals_the_plain_double_loop(rng_seed: int, seeds: int, arms: int) -> None:
    rng = np.random.default_rng(rng_seed)
    val, test = rng.random((2, seeds, arms))
    found = estimate(pair(val, test, resamples=50), 0)
    plain = []
    for split in halves(seeds):
        best = max(range(arms), key=lambda k: np.mean([val[s, k] for s in range(seeds) if split[s]]))
        plain.append(np.mean([test[s, best] - test[s, 0] for s in range(seeds) if not split[s]]))
    assert found.regret == pytest.approx(np.mean(plain))
    assert found.lower(0.05) <= found.regret <= found.upper(0.05)
