"""What the plan says a number of seeds can decide, and how many seeds there is time for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pmae.errors import ConfigError
from tune import ConfirmOptions, SearchOptions, StudyOptions, TrainingOptions
from tune.planning.check import parse_duration
from tune.planning.describe import _power_sentence, expected_seconds, fit_to_budget, phase_seconds, power
from tune.planning.placement import Placement
from tune.planning.plan import plan_study

TWO_AT_A_TIME = Placement(concurrent=2, threads=1, workers=1, gpus=0.0, memory=1e9, limited_by="2 CPUs", lag=2)


def planned(**confirm: object) -> StudyOptions:
    return StudyOptions(search=SearchOptions(methods=("pmae",)), confirm=ConfirmOptions(**confirm))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("3", 180), ("0" * 299 + "20m", 1200)]
)
def test_durations_are_read_with_their_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("settled", [False, True])
def test_a_time_budget_chooses_seeds_that_take_about_that_long(settled):
    plan = plan_study(planned(time_budget="40m", until_settled=settled))
    fitted = fit_to_budget(plan, TWO_AT_A_TIME)
    _, per_seed = phase_seconds(plan, TWO_AT_A_TIME)
    whole = expected_seconds(fitted, TWO_AT_A_TIME) + (fitted.rounds - 1) * per_seed * len(fitted.seeds)
    assert 2400 - fitted.rounds * per_seed < whole <= 2400
    assert len(set(fitted.seeds)) == len(fitted.seeds)


def test_a_budget_without_time_for_two_seeds_is_refused_with_what_they_take():
    plan = plan_study(planned(time_budget="1m"))
    with pytest.raises(ConfigError, match=r"too short for 2 seeds of each ratio, which take about \d+ (s|min)"):
        fit_to_budget(plan, TWO_AT_A_TIME)


def test_power_grows_with_seeds_and_falls_with_noise():
    few, many = power(7, 3, 1, 0.8, 1.0, 0.05), power(7, 12, 1, 0.8, 1.0, 0.05)
    noisy = power(7, 3, 1, 2.0, 1.0, 0.05)
    assert many[0] > few[0] > noisy[0] and many[1] > few[1] >= noisy[1]
    assert power(7, 4, 5, 0.8, 1.0, 0.05)[1] > power(7, 4, 1, 0.8, 1.0, 0.05)[1]  # a race goes on


def test_power_assumes_the_noise_of_the_images_that_are_scored():
    def spread(protocol: str) -> float:
        plan = plan_study(StudyOptions(training=TrainingOptions(protocol=protocol)))
        return float(re.search(r"single runs spread by ([\d.]+) points", _power_sentence(plan))[1])

    # Out of fold all 1,797 digits are scored; the paper's protocol scores the 360 test images alone.
    assert spread("paper") == pytest.approx(spread("fast") * (1797 / 359) ** 0.5, rel=0.05)


def test_a_later_look_is_judged_more_strictly():
    first, second = (plan_study(planned(look=look)).alpha for look in (1, 2))
    assert (first, second) == (0.05, 0.0125)
    assert replace(plan_study(planned()), seeds=(1, 2)).judge_options()["looks"] is None
