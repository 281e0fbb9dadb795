"""Fitted curves, plateaus and the inverted-U test on curves whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from studies.errors import StudyError
from studies.inverted_u import inverted_u
from studies.ratio_fit import fit_curve


def noisy(trials: int, sd: float, rng_seed: int, curve: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rng_seed)
    x = rng.uniform(0.05, 0.9, trials)
    return x, 0.8 - curve * (x - 0.4) ** 2 + sd * rng.standard_normal(trials)


def test_optimum_and_plateau_of_a_parabola_are_found() -> None:
    truth, widths, hits = 2 * np.sqrt(0.01 / 0.5), [], []
    for rng_seed in range(24):
        fit = fit_curve(*noisy(60, 0.005, rng_seed))
        assert fit.optimum == pytest.approx(0.4, abs=0.06)
        assert fit.plateau_low < 0.4 < fit.plateau_high
        assert fit.noise == pytest.approx(0.005, rel=0.5)
        widths.append(fit.width)
        hits.append((fit.width_low <= truth <= fit.width_high, fit.optimum_low <= 0.4 <= fit.optimum_high))
    assert np.mean(widths) == pytest.approx(truth, abs=0.015)  # 3.5 standard errors
    assert np.mean(hits, axis=0).min() >= 0.7  # 90 % intervals: fewer would be met by chance once in 400


def test_the_plateau_of_a_curve_without_noise_is_not_rounded_to_the_grid() -> None:
    x = np.linspace(0.05, 0.9, 60)
    fit = fit_curve(x, 0.8 - 0.5 * (x - 0.4) ** 2)
    assert (fit.plateau_low, fit.plateau_high) == pytest.approx((0.4 - np.sqrt(0.02), 0.4 + np.sqrt(0.02)), abs=2e-3)


def test_a_flatter_curve_has_a_wider_plateau_on_the_same_grid() -> None:
    sharp, flat = (fit_curve(*noisy(60, 0.003, 1, curve), within=(0.1, 0.8)) for curve in (2.0, 0.3))
    assert sharp.grid == flat.grid and sharp.grid[0] == pytest.approx(0.1)
    assert sharp.share < 0.5 * flat.share
    assert fit_curve(*noisy(60, 0.001, 1, 0.0)).share == pytest.approx(1)


def test_many_trials_are_condensed_to_the_same_curve() -> None:
    fit = fit_curve(*noisy(10_000, 0.02, 3))
    assert fit.optimum == pytest.approx(0.4, abs=0.04)
    assert fit.noise == pytest.approx(0.02, rel=0.3)
    assert fit.trials == 10_000


def test_trials_that_are_no_numbers_are_left_out_and_too_few_explained() -> None:
    x, y = noisy(20, 0.005, 0)
    y[3] = np.nan
    assert fit_curve(x, y).trials == 19
    with pytest.raises(StudyError, match="needs at least 4"):
        fit_curve([0.1, 0.2, 0.2], [0.5, 0.6, 0.6])
    with pytest.raises(StudyError, match="was not tried"):
        fit_curve(x, y, within=(0.01, 0.5))


SHAPES = {
    "flat": lambda x: 0 * x,
    "rises": lambda x: x,
    "levels off": lambda x: 2 * np.minimum(x, 0.4),
    "levels off early": lambda x: 3 * np.minimum(x, 0.25),
    "saturates": lambda x: 1 - np.exp(-8 * x),
}


@pytest.mark.parametrize("trials", [30, 80])
@pytest.mark.parametrize("sd", [0.15, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_curves_that_do_not_fall_are_rarely_taken_for_an_inverted_u(shape: str, sd: float, trials: int) -> None:
    rng, repeats = np.random.default_rng(2024), 300
    found = 0
    for _ in range(repeats):
        x = rng.uniform(0.05, 0.9, trials)
        found += inverted_u(x, SHAPES[shape](x) + sd * rng.standard_normal(trials)).p_value < 0.05
    assert found <= repeats * 0.05 + 3.1 * np.sqrt(repeats * 0.05 * 0.95)


def test_an_inverted_u_is_found() -> None:
    rng, found = np.random.default_rng(3), 0
    for _ in range(60):
        x = rng.uniform(0.05, 0.9, 40)
        result = inverted_u(x, -4 * (x - 0.45) ** 2 + 0.1 * rng.standard_normal(40))
        found += result.p_value < 0.05
        assert result.slope_left > 0 > result.slope_right
    assert found > 50
