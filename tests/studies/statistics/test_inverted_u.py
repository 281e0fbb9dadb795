"""The two-lines test for an inverted U on curves whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from studies.errors import StudyError
from studies.statistics.inverted_u import inverted_u

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


def test_equal_accuracies_are_no_inverted_u() -> None:
    assert inverted_u(np.linspace(0.05, 0.9, 12), np.full(12, 0.7)).p_value > 0.05
    left = np.linspace(0.05, 0.9, 12)
    assert inverted_u(left, np.minimum(0.7, 1 - left)).p_value > 0.05  # flat on one side


def test_trials_that_are_not_numbers_are_left_out_and_too_few_are_refused() -> None:
    rng = np.random.default_rng(4)
    x = rng.uniform(0.05, 0.9, 30)
    y = -4 * (x - 0.45) ** 2 + 0.1 * rng.standard_normal(30)
    assert inverted_u([*x, 0.5, np.nan], [*y, np.nan, 0.1]) == inverted_u(x, y)
    with pytest.raises(StudyError, match="7 trials at 7 ratios"):
        inverted_u(x[:7], y[:7])
    with pytest.raises(StudyError, match="at 2 ratios"):
        inverted_u([0.2, 0.5] * 10, y[:20])
