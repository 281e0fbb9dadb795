"""Bounds on the regret: noise, contrasts and critical values against textbook formulas and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from studies.statistics.regret import Noise, dunnett_critical_value, estimate_contrast, estimate_noise, seeds_needed
from tests.studies.tables import draw

MARGIN = 0.01


def latin_square(size: int, sd: float = 0.01) -> np.ndarray:
    """(size, size) residuals whose columns have exactly the same variance, and whose rows and columns sum to 0."""
    values = sd * np.random.default_rng(3).standard_normal(size)
    return np.array([np.roll(values - values.mean(), shift) for shift in range(size)])


def two_way_mean_square(table: np.ndarray) -> float:
    """Residual mean square of a complete (n, K) table after row and column effects."""
    seeds, rungs = table.shape
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((residuals**2).sum() / ((seeds - 1) * (rungs - 1)))


@pytest.mark.parametrize(("freedom", "family"), [(3, 2), (4, 6), (8, 3), (24, 6)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_dunnett_value_is_exceeded_as_often_as_promised(freedom: int, family: int, alpha: float) -> None:
    rng, repeats = np.random.default_rng(1), 400_000
    reference = rng.standard_normal((repeats, 1))
    scale = np.sqrt(rng.chisquare(freedom, repeats) / freedom)
    largest = ((rng.standard_normal((repeats, family)) - reference) / math.sqrt(2)).max(axis=1) / scale
    exceeded = np.mean(largest > dunnett_critical_value(freedom, family, alpha))
    assert abs(exceeded - alpha) < 0.01 * alpha + 4 * math.sqrt(alpha / repeats)


def test_dunnett_value_gives_the_multivariate_t_probability() -> None:
    freedom, family = 10, 4
    value = dunnett_critical_value(freedom, family, 0.05)
    correlation = np.full((family, family), 0.5) + 0.5 * np.eye(family)
    inside = stats.multivariate_t(shape=correlation, df=freedom).cdf(np.full(family, value), random_state=0)
    assert inside == pytest.approx(0.95, abs=1e-3)


def test_dunnett_bound_agrees_with_scipys_dunnett_test() -> None:
    rng = np.random.default_rng(5)
    groups = [rng.normal(mean, 1, 8) for mean in (0.0, 0.4, 0.9, 1.3)]
    found = stats.dunnett(*groups[1:], control=groups[0], alternative="greater", random_state=0)
    ci = found.confidence_interval(0.95)
    pooled = np.mean([group.var(ddof=1) for group in groups])
    value = dunnett_critical_value(4 * 7, 3, 0.05)
    differences = np.array([group.mean() - groups[0].mean() for group in groups[1:]])
    assert ci.low == pytest.approx(differences - value * math.sqrt(2 * pooled / 8), abs=5e-3)


@pytest.mark.parametrize("freedom", [1.0, 2.5, 19.96, 40.2, 150.0, math.inf])
def test_dunnett_value_is_between_students_and_bonferronis(freedom: float) -> None:
    values = [dunnett_critical_value(freedom, family, 0.05) for family in (1, 2, 6)]
    limits = [stats.t.ppf(1 - 0.05 / family, min(freedom, 1e9)) for family in (1, 2, 6)]
    assert values[0] == pytest.approx(limits[0]) and values == sorted(values)
    assert values[1] < limits[1] * 1.01 and values[2] < limits[2] * 1.01


def test_equal_variances_are_pooled_as_in_the_two_way_analysis_of_variance() -> None:
    size = 5
    table = 0.7 + latin_square(size) + 0.1 * np.arange(size)[:, None] + 0.02 * np.arange(size)
    noise = estimate_noise(table)
    assert noise.pooled == pytest.approx(two_way_mean_square(table))
    assert noise.variances == pytest.approx(np.full(size, noise.pooled))
    assert (noise.freedom, noise.total_freedom) == (pytest.approx(16), pytest.approx(16))


@example(rng_seed=0, seeds=3, rungs=2, holes=1)
@given(rng_seed=st.integers(0, 10_000), seeds=st.integers(3, 8), rungs=st.integers(2, 7), holes=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_pooled_variance_with_empty_cells_is_that_of_least_squares(
    rng_seed: int, seeds: int, rungs: int, holes: int
) -> None:
    rng = np.random.default_rng(rng_seed)
    table = rng.random((seeds, rungs))
    table.flat[rng.choice(table.size, min(holes, table.size - 1), replace=False)] = np.nan
    noise = estimate_noise(table)
    rows, columns = np.nonzero(np.isfinite(table))
    design = np.concatenate([np.eye(seeds)[rows], np.eye(rungs)[columns]], axis=1)
    observed = table[rows, columns]
    fitted = design @ np.linalg.lstsq(design, observed, rcond=None)[0]
    freedom = len(observed) - np.linalg.matrix_rank(design)
    if freedom < 1 or (np.isfinite(table).sum(axis=1) > 1).sum() < 2:
        assert math.isnan(noise.pooled)
    else:
        assert noise.total_freedom == pytest.approx(freedom)
        assert noise.pooled == pytest.approx(((observed - fitted) ** 2).sum() / freedom)


def test_moderated_variances_are_unbiased_enough_and_keep_their_order() -> None:
    rng, sd = np.random.default_rng(8), np.array([1.0, 1, 1, 1, 1, 3])
    found = np.mean([estimate_noise(draw(rng, np.zeros(6), sd, 10)).variances for _ in range(300)], axis=0)
    assert found[-1] > 5 * found[:-1].max()
    assert found[:-1].mean() == pytest.approx(1, rel=0.35) and found[-1] == pytest.approx(9, rel=0.25)


def test_two_rungs_give_the_paired_t_interval() -> None:
    table = draw(np.random.default_rng(0), [0.0, 0.02], 0.01, 6)
    difference = estimate_contrast(table, estimate_noise(table), {1: 1.0, 0: -1.0})
    paired = stats.ttest_rel(table[:, 1], table[:, 0])
    assert difference.estimate == pytest.approx((table[:, 1] - table[:, 0]).mean())
    assert difference.upper(0.05) == pytest.approx(paired.confidence_interval(0.9).high)
    assert difference.lower(0.05) == pytest.approx(paired.confidence_interval(0.9).low)


def test_bounds_of_a_difference_are_the_textbooks() -> None:
    size = 6
    table = 0.7 + latin_square(size) + 0.05 * np.arange(size)[:, None] + 0.01 * np.arange(size)
    difference = estimate_contrast(table, estimate_noise(table), {4: 1.0, 1: -1.0})
    error, freedom = math.sqrt(2 * two_way_mean_square(table) / size), (size - 1) ** 2
    assert difference.estimate == pytest.approx(0.03)
    assert difference.upper(0.05) == pytest.approx(0.03 + stats.t.ppf(0.95, freedom) * error)
    assert difference.lower(0.05, 5) == pytest.approx(0.03 - dunnett_critical_value(freedom, 5, 0.05) * error)


def test_weights_enter_the_error_with_their_squares() -> None:
    size, share = 5, 0.1
    table = 0.7 + latin_square(size)
    found = estimate_contrast(table, estimate_noise(table), {2: 1 - share, 4: share, 0: -1.0})
    variance = two_way_mean_square(table) * ((1 - share) ** 2 + share**2 + 1)
    assert found.error == pytest.approx(math.sqrt(variance / size))
    assert found.estimate == pytest.approx(table[:, 2].mean() * 0.9 + table[:, 4].mean() * 0.1 - table[:, 0].mean())


def test_only_seeds_that_both_rungs_have_are_paired() -> None:
    table = draw(np.random.default_rng(4), np.zeros(4), 0.01, 6)
    table[5, 1] = 0.0
    whole = estimate_contrast(table[:5], estimate_noise(table[:5]), {1: 1.0, 0: -1.0}).estimate
    table[5, 1] = np.nan
    difference = estimate_contrast(table, estimate_noise(table), {1: 1.0, 0: -1.0})
    assert difference.seeds == 5 and difference.estimate == pytest.approx(whole)


def test_without_two_paired_seeds_there_is_no_bound() -> None:
    table = draw(np.random.default_rng(4), np.zeros(3), 0.01, 4)
    table[1:, 2] = np.nan
    difference = estimate_contrast(table, estimate_noise(table), {2: 1.0, 0: -1.0})
    assert not difference.usable and difference.upper(0.05) == math.inf and difference.lower(0.05) == -math.inf


def test_a_copied_column_is_recognized() -> None:
    table = draw(np.random.default_rng(4), np.zeros(3), 0.01, 5)
    table[:, 2] = table[:, 0] + 0.004
    noise = estimate_noise(table)
    assert estimate_contrast(table, noise, {2: 1.0, 0: -1.0}).constant
    assert not estimate_contrast(table, noise, {1: 1.0, 0: -1.0}).constant


def test_upper_and_lower_bounds_cover_the_truth_as_often_as_they_say() -> None:
    rng, repeats, uppers, lowers = np.random.default_rng(6), 1500, 0, 0
    for _ in range(repeats):
        table = draw(rng, np.zeros(5), 0.01, 5)
        noise = estimate_noise(table)
        found = [estimate_contrast(table, noise, {k: 1.0, 0: -1.0}) for k in range(1, 5)]
        uppers += found[0].upper(0.05) < 0
        lowers += max(c.lower(0.05, 4) for c in found) > 0
    reach = 3.3 * math.sqrt(0.05 * 0.95 / repeats)
    assert 0.05 - reach < uppers / repeats < 0.05 + reach
    assert 0.05 - reach < lowers / repeats < 0.05 + reach


def noise_of(sd: float, rungs: int, seeds: int) -> Noise:
    freedom = float((seeds - 1) * (rungs - 1))
    return Noise(np.full(rungs, sd**2), freedom, freedom, sd**2)


def test_suggested_seeds_settle_flat_curves_in_eight_of_ten_studies() -> None:
    sd, rungs, rng = 0.01, 3, np.random.default_rng(2)
    first = np.full((5, rungs), 0.7)
    more = seeds_needed(
        [estimate_contrast(first, noise_of(sd, rungs, 5), {k: 1.0, 0: -1.0}) for k in (1, 2)], MARGIN, 0.05
    )
    assert more is not None
    settled = []
    for _ in range(300):
        table = draw(rng, np.zeros(rungs), sd, 5 + more)
        noise = estimate_noise(table)
        settled.append(all(estimate_contrast(table, noise, {k: 1.0, 0: -1.0}).upper(0.05) < MARGIN for k in (1, 2)))
    assert 0.6 < np.mean(settled) < 0.9  # 80 % for each of two rungs


def test_suggested_seeds_are_the_fewest() -> None:
    table = np.full((5, 4), 0.7) + np.array([0, 0.002, 0.004, 0.0])
    differences = [estimate_contrast(table, noise_of(0.008, 4, 5), {k: 1.0, 0: -1.0}) for k in (1, 2, 3)]
    more = seeds_needed(differences, MARGIN, 0.05)
    assert more is not None

    def reach(total: int) -> float:
        return max(
            c.estimate
            + (stats.t.ppf(0.95, c.freedom / 4 * (total - 1)) + stats.norm.ppf(0.8)) * 0.008 * math.sqrt(2 / total)
            for c in differences
        )

    assert reach(5 + more) < MARGIN <= reach(5 + more - 1)


def test_no_number_of_seeds_settles_a_difference_at_the_margin() -> None:
    table = np.full((5, 3), 0.7) + np.array([0, MARGIN, 0.0])
    differences = [estimate_contrast(table, noise_of(0.01, 3, 5), {k: 1.0, 0: -1.0}) for k in (1, 2)]
    assert seeds_needed(differences, MARGIN, 0.05) is None
    assert seeds_needed([], MARGIN, 0.05) is None
