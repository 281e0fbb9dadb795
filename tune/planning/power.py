"""Power of the verdict for the planned number of seeds, by simulation."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from tune.trial.spec import FOLDS_BELOW

if TYPE_CHECKING:
    from tune.planning.plan import StudyPlan

STUDIES = 200  # simulated
REGRET = 3.0  # points
MAX_SEEDS = 500  # of a simulation; more find every regret, and take seconds to simulate
EXCESS = 1.4  # noise of a paired run over binomial noise: 0.6 to 2 in docs/evidence, 1.4 as root mean square
ERROR_RATE = 0.25  # for which the binomial noise of an accuracy is computed


def power_sentence(plan: StudyPlan) -> str:
    """Return ``a true regret of 3 points would be found in 8 of 10 studies, a flat curve hold in 3 of 10 (...)``."""
    from studies.statistics.decision import Margin

    margin = Margin.parse(plan.options.confirm.margin)
    points = 1.0 if margin.points is None else 100 * margin.points
    rungs = max(len(plan.space.ladder[method]) for method in plan.space.methods)
    noise = expected_noise(plan)
    fails, holds = power(rungs, len(plan.seeds), plan.rounds, round(noise, 2), round(points, 3), plan.alpha)
    return (
        f"a true regret of {REGRET:g} points would be found in {10 * fails:.0f} of 10 studies, a flat curve hold in "
        f"{10 * holds:.0f} of 10 (assuming that single runs spread by {noise:.1f} points)"
    )


def expected_noise(plan: StudyPlan) -> float:
    """Standard deviation of one accuracy in points: binomial noise of the images that are scored, times ``EXCESS``."""
    counts = {split: len(plan.images.indices(split)) for split in ("train", "val", "test")}
    scored = counts["test"] if counts["test"] >= FOLDS_BELOW else sum(counts.values())
    return EXCESS * 100 * math.sqrt(ERROR_RATE * (1 - ERROR_RATE) / max(scored, 1))


@functools.lru_cache(maxsize=32)
def power(rungs: int, seeds: int, rounds: int, noise: float, margin: float, alpha: float) -> tuple[float, float]:
    """Return how often a rung that is better by ``REGRET`` points is found, and how often a flat curve holds."""
    import numpy as np

    from studies.statistics.regret import contrast, estimate_noise
    from studies.statistics.sequential import level_for_look

    seeds = min(seeds, MAX_SEEDS)
    rng = np.random.default_rng(0)
    levels = [level_for_look(r, rounds, alpha) if rounds > 1 else alpha for r in range(1, rounds + 1)]
    found = [0, 0]
    for regret, outcome in ((REGRET, 0), (0.0, 1)):
        means = np.zeros(rungs)
        means[-1] = regret
        for _ in range(STUDIES):
            table = means + noise * rng.standard_normal((seeds * rounds, rungs))
            settled: set[int] = set()
            for number, level in enumerate(levels, 1):
                part = table[: number * seeds]
                spread = estimate_noise(part)
                bounds = {k: contrast(part, spread, {k: 1.0, 0: -1.0}) for k in range(1, rungs) if k not in settled}
                if any(c.lower(level, rungs - 1) > margin for c in bounds.values()):
                    found[outcome] += outcome == 0
                    break
                settled |= {k for k, c in bounds.items() if c.upper(level) < margin}
                if len(settled) == rungs - 1:
                    found[outcome] += outcome == 1
                    break
    return found[0] / STUDIES, found[1] / STUDIES
