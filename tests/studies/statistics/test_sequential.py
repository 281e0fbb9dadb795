"""Levels of several looks against the definition, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from studies.errors import StudyError
from studies.statistics.regret import estimate_contrast, estimate_noise
from studies.statistics.sequential import alpha_spent, level_for_look
from studies.verdict import Looks
from tests.studies.tables import draw


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


@pytest.mark.parametrize(("seeds", "look"), [(1, 1), (4, 1), (5, 2), (8, 2), (12, 3), (20, 5), (99, 5)])
def test_a_verdict_uses_the_level_of_the_round_that_its_seeds_complete(seeds: int, look: int) -> None:
    assert Looks(4, 5).level(seeds, 0.05) == level_for_look(look, 5)
    assert Looks(4, 1).level(seeds, 0.05) == pytest.approx(0.05)


def test_stopping_at_the_first_settled_round_keeps_both_errors() -> None:
    margin, repeats, rounds, each = 0.01, 300, 5, 2
    rng, looks = np.random.default_rng(5), Looks(each, rounds)
    falsely, without_correction = {"holds": 0, "fails": 0}, 0
    for _ in range(repeats):
        table = draw(rng, [0, 0, margin], 0.006, rounds * each)
        settled = {"plain": False, "corrected": ""}
        for seeds in range(each, rounds * each + 1, each):
            noise = estimate_noise(table[:seeds])
            found = [estimate_contrast(table[:seeds], noise, {k: 1.0, 0: -1.0}) for k in (1, 2)]
            settled["plain"] |= max(c.upper(0.05) for c in found) < margin
            level = looks.level(seeds, 0.05)
            if not settled["corrected"]:
                if max(c.upper(level) for c in found) < margin:
                    settled["corrected"] = "holds"
                elif max(c.lower(level, 2) for c in found) > margin:
                    settled["corrected"] = "fails"
        without_correction += settled["plain"]
        if settled["corrected"]:
            falsely[settled["corrected"]] += 1
    most = repeats * 0.05 + 3.1 * np.sqrt(repeats * 0.05 * 0.95)
    assert max(falsely.values()) < most < without_correction


@pytest.mark.parametrize("arguments", [(0, 3), (4, 3), (1, 3, 0.6)])
def test_unplanned_looks_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(StudyError):
        level_for_look(*arguments)  # type: ignore[arg-type]
