"""Error rates of whole verdicts over simulated studies with known truth; ``--slow`` repeats them ten times as often."""

from __future__ import annotations

import math
import zlib
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest

from studies.verdict import judge
from tests.studies.tables import DEFAULT, LADDER, UNTRAINED, as_table, control_rows, draw, trial_rows

MARGIN = 0.01
RUNGS = np.array(LADDER)
EQUAL = np.ones(len(LADDER))
FLAT = np.zeros(len(LADDER))


def leveling_off() -> np.ndarray:
    """Best at 0.05, leveling off towards larger ratios."""
    return np.exp(-(RUNGS - 0.05) / 0.15)


def single_peak() -> np.ndarray:
    """A broad peak at 0.55."""
    return np.exp(-0.5 * ((RUNGS - 0.55) / 0.25) ** 2)


# Accuracy over the ratio (scaled so that the default's regret is 1) and the deviation of single runs at each rung.
TRUTHS = {
    "leveling off from .05": (leveling_off(), EQUAL),
    "single peak at .55": (single_peak(), EQUAL),
    "heteroscedastic, peak at .55": (single_peak(), np.linspace(0.5, 1.8, len(LADDER))),
    "heteroscedastic, leveling off": (leveling_off(), np.linspace(1.8, 0.5, len(LADDER))),
}


def scaled(curve: np.ndarray, regret: float) -> np.ndarray:
    """``curve`` times what gives the default a true regret of ``regret`` margins."""
    return curve / (curve.max() - curve[DEFAULT]) * regret * MARGIN


def verdicts(
    means: np.ndarray,
    sd: float | np.ndarray,
    repeats: int,
    seeds: int = 5,
    untrained: float = UNTRAINED,
    name: str = "",
) -> Counter[str]:
    """Verdicts on ``repeats`` tables; ``sd`` in margins is the part of the noise that seeds do not share."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), seeds])
    spread = [*np.broadcast_to(sd, len(LADDER)) * MARGIN, float(np.mean(sd)) * MARGIN]
    found: Counter[str] = Counter()
    for _ in range(repeats):
        joined = draw(rng, [*means, untrained - 0.75], spread, seeds)
        rows = trial_rows(joined[:, :-1]) + control_rows(joined[:, -1])
        found[judge(as_table(rows), margin=MARGIN).overall["verdict"]] += 1
    return found


def at_most(share: float, count: int, repeats: int) -> bool:
    """Whether ``count`` of ``repeats`` is compatible with a rate of at most ``share`` (1 in 1,000 would be refused)."""
    return bool(binomtest(count, repeats, share, alternative="greater").pvalue > 1e-3)


def check_truth(name: str, sd: float, repeats: int, seeds: int = 5) -> None:
    curve, spread = TRUTHS[name]
    at_the_margin = verdicts(scaled(curve, 1.0001), sd * spread, repeats, seeds, name=name)
    assert at_most(0.05, at_the_margin["holds"], repeats), at_the_margin
    assert at_most(0.05, at_the_margin["fails"], repeats), at_the_margin


@pytest.mark.parametrize("name", TRUTHS)
def test_false_verdicts_at_the_margin_are_rare(name: str) -> None:
    check_truth(name, 0.6, 300)


def test_a_flat_curve_holds_in_four_of_ten_studies() -> None:
    found = verdicts(FLAT, 0.6, 300, name="flat")
    assert found["holds"] >= 120 and found["fails"] == 0, found


@pytest.mark.parametrize("name", ["leveling off from .05", "single peak at .55"])
def test_a_regret_of_three_margins_is_found_in_eight_of_ten_studies(name: str) -> None:
    found = verdicts(scaled(TRUTHS[name][0], 3), 0.8, 200, name=name)
    assert found["fails"] >= 160 and found["holds"] == 0, found


def test_studies_are_uninformative_where_training_adds_nothing() -> None:
    found = verdicts(FLAT, 1.0, 200, untrained=0.75, name="nothing gained")
    assert found["uninformative"] >= 190, found


def test_the_rule_without_moderation_or_correction_would_err() -> None:
    """The simulation can fail: without Dunnett's correction a flat curve would find a winner far too often."""
    rng, repeats, naive = np.random.default_rng(4), 400, 0
    for _ in range(repeats):
        table = draw(rng, FLAT, MARGIN, 5)
        differences = table - table[:, [DEFAULT]]
        errors = differences.std(axis=0, ddof=1) / math.sqrt(5)
        naive += np.delete(differences.mean(axis=0) - 2.132 * errors, DEFAULT).max() > 0
    assert not at_most(0.05, naive, repeats)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("sd", [0.4, 1.0])
@pytest.mark.parametrize("name", TRUTHS)
def test_false_verdicts_at_the_margin_are_rare_over_many_studies(name: str, sd: float, seeds: int) -> None:
    check_truth(name, sd, 1500, seeds)


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_uninformative_studies_are_recognized_over_many_studies(sd: float) -> None:
    found = verdicts(FLAT, sd, 1000, untrained=0.75, name="nothing gained")
    assert found["uninformative"] >= 950, found


@pytest.mark.slow
def test_power_grows_with_seeds() -> None:
    held = [verdicts(FLAT, 0.7, 300, seeds, name="flat")["holds"] for seeds in (3, 5, 10)]
    curve = scaled(TRUTHS["single peak at .55"][0], 3)
    failed = [verdicts(curve, 1.0, 300, seeds, name="peak")["fails"] for seeds in (3, 5, 10)]
    # With known variances 77 of 100 would hold with 10 seeds: E[Phi(sqrt(2) z + X)^6], z = (0.01 - 1.645 se) / se.
    assert held[0] < held[1] < held[2] and held[2] > 205
    assert failed[0] < failed[1] <= failed[2] and failed[2] > 290
