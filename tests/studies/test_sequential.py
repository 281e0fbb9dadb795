"""Levels of several looks against the definition, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from studies.errors import StudyError
from studies.regret import estimate, pair
from studies.sequential import alpha_spent, level_for_look


def test_one_look_spends_everything() -> None:
    assert level_for_look(1, 1) == pytest.approx(0.05)


@pytest.mark.parametrize("looks", [2, 5])
def test_all_looks_together_err_with_alpha_and_spend_as_planned(looks: int) -> None:
    repeats = 400_000
    steps = np.random.default_rng(1).standard_normal((repeats, looks))
    scores = steps.cumsum(axis=1) / np.sqrt(np.arange(1, looks + 1))
    crossed = scores > norm.isf([level_for_look(look, looks) for look in range(1, looks + 1)])
    stopped = np.maximum.accumulate(crossed, axis=1).mean(axis=0)
    expected = np.array([alpha_spent(look / looks) for look in range(1, looks + 1)])
    assert np.abs(stopped - expected).max() < 4 * np.sqrt(0.05 * 0.95 / repeats)
    naive = (scores > norm.isf(0.05)).any(axis=1).mean()
    assert naive > 0.07  # what the correction is for


def test_stopping_at_the_first_settled_look_keeps_both_errors() -> None:
    margin, repeats, looks, each = 0.01, 300, 5, 2
    rng = np.random.default_rng(5)
    falsely, without_correction = {"holds": 0, "fails": 0}, 0
    for _ in range(repeats):
        test = 0.8 + 0.05 * rng.standard_normal((looks * each, 1)) + 0.006 * rng.standard_normal((looks * each, 3))
        test[:, 2] += margin
        val = test + 0.003 * rng.standard_normal(test.shape)
        ends = range(each, looks * each + 1, each)
        found = [estimate(pair(val[:end], test[:end], resamples=100), 0) for end in ends]
        without_correction += any(e.upper(0.05) < margin for e in found)
        for look, e in enumerate(found, start=1):
            level = level_for_look(look, looks)
            if e.upper(level) < margin or e.lower(level) > margin:
                falsely["holds" if e.upper(level) < margin else "fails"] += 1
                break
    most = repeats * 0.05 + 3.1 * np.sqrt(repeats * 0.05 * 0.95)
    assert max(falsely.values()) < most < without_correction


@pytest.mark.parametrize("arguments", [(0, 3), (4, 3), (1, 3, 0.6)])
def test_unplanned_looks_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(StudyError):
        level_for_look(*arguments)  # type: ignore[arg-type]
