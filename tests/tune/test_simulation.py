"""Whole studies in memory with known truth: rounds, controls, what the search sees, and rates of the verdict."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pmae.errors import ConfigError
from tune import ConfirmOptions, SearchOptions, StudyOptions, simulate
from tune.simulation import Objective

PMAE = SearchOptions(methods=("pmae",))


def objective(curve: Callable[[float], float], sd: float, gain: float = 15.0, calls: list | None = None) -> Objective:
    """Accuracies around 70 % plus ``curve`` (points), single runs spread by ``sd`` points, half of it per seed."""

    def score(method: str, ratio: float | None, patch_size: int | None, seed: int, phase: str) -> dict[str, float]:
        if calls is not None:
            calls.append((method, ratio, patch_size, seed, phase))
        level = 0.5 * sd * np.random.default_rng([seed, 1]).standard_normal()
        rng = np.random.default_rng([seed, zlib.crc32(repr((method, ratio, phase)).encode())])
        mean = -gain if ratio is None else curve(ratio)
        values = 70 + mean + level + 0.866 * sd * rng.standard_normal(2)
        return {"val_linear": values[0] / 100, "test_linear": values[1] / 100}

    return score


def falling(regret: float) -> Callable[[float], float]:
    """5 % is better than 20 % by ``regret`` points, larger ratios are worse."""
    return lambda ratio: regret * max(0.2 - ratio, 0) / 0.15 - 3 * max(ratio - 0.2, 0)


def verdicts(options: StudyOptions, curve: Callable[[float], float], sd: float, count: int, **more: float) -> Counter:
    return Counter(simulate(options, objective(curve, sd, **more), seed=s).rows[0]["verdict"] for s in range(count))


def test_a_study_has_a_ladder_with_paired_seeds_and_controls():
    calls: list[tuple] = []
    verdict = simulate(StudyOptions(), objective(falling(0), 0.1, calls=calls), seed=3)
    confirmed = {(c[0], c[1]) for c in calls if c[4] == "confirm"}
    seeds = {c[3] for c in calls if c[4] == "confirm"}
    assert {("pmae", r) for r in (0.05, 0.1, 0.2, 0.35, 0.55, 0.75, 0.9)} <= confirmed and len(seeds) == 5
    assert {c[0] for c in calls if c[4] == "control"} == {"untrained", "pixels"}
    assert all(c[1] is None for c in calls if c[4] == "control")
    assert not seeds & {c[3] for c in calls if c[4] == "explore"}
    assert [row["method"] for row in verdict.rows] == ["pmae", "mae"]
    assert verdict.rows[0]["training_gain"] == pytest.approx(0.15, abs=0.01)


def test_the_search_has_seen_accuracies_when_it_proposes():
    def explored(sign: int) -> list[float]:
        calls: list[tuple] = []
        options = StudyOptions(search=SearchOptions(methods=("pmae",), trials=24))
        simulate(options, objective(lambda r: 20 * sign * r, 0.1, calls=calls), seed=0)
        return [c[1] for c in calls if c[4] == "explore"]

    rising, sinking = explored(1), explored(-1)
    assert rising[:3] == sinking[:3] and rising[:6] != sinking[:6]  # the first few are drawn without results
    assert np.mean(rising[-10:]) > np.mean(sinking[-10:])


def test_the_default_study_holds_on_a_flat_curve_and_fails_where_it_should():
    options = StudyOptions(search=PMAE)
    assert verdicts(options, falling(0), 0.4, 20)["holds"] >= 16
    assert verdicts(options, falling(3), 0.7, 20)["fails"] >= 16


def test_a_regret_at_the_margin_rarely_holds():
    found = verdicts(StudyOptions(search=replace(PMAE, search="none")), falling(1), 1.0, 100)
    assert found["holds"] <= 11  # 5 % of 100: more than 11 by chance once in 200


def test_a_study_whose_training_adds_nothing_is_uninformative():
    found = verdicts(StudyOptions(search=PMAE), lambda ratio: 0.0, 1.0, 30, gain=0.0)
    assert found["uninformative"] >= 27


def test_a_race_ends_with_its_first_clear_winner_and_stops_settled_rungs():
    options = StudyOptions(
        search=replace(PMAE, search="none"), confirm=ConfirmOptions(until_settled=True, confirm_seeds=4)
    )
    calls: list[tuple] = []
    verdict = simulate(options, objective(falling(5), 0.7, calls=calls), seed=1)
    assert verdict.rows[0]["verdict"] == "fails" and verdict.rows[0]["seeds"] == 4
    calls.clear()
    verdict = simulate(options, objective(lambda r: -8 * max(r - 0.3, 0), 1.2, calls=calls), seed=1)
    seeds = Counter(c[1] for c in calls if c[4] == "confirm")
    assert seeds[0.9] == 4 and seeds[0.2] == max(seeds.values()) > 4
    assert "(95 % confidence, 4 to " in verdict.answer  # of all rounds together


def test_a_ladder_without_the_default_is_refused():
    with pytest.raises(ConfigError, match="lacks the default"):
        simulate(StudyOptions(confirm=ConfirmOptions(ladder=(0.1, 0.5))), objective(falling(0), 1), seed=0)


def test_runs_that_diverge_at_one_rung_never_let_the_default_hold():
    def curve(ratio: float) -> float:
        return float("nan") if ratio == 0.9 else 0.0

    found = verdicts(StudyOptions(search=replace(PMAE, search="none")), curve, 0.2, 5)
    assert found == {"inconclusive": 5}
