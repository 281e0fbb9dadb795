"""What the papers' own curves allow one to conclude about their defaults: one run per point has no interval.

The regret read off such a curve is naive: the best of K noisy values is above the truth even where all ratios are
equal. Beside it stands how large the noise of a run would have to be to produce that regret from a flat curve.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr

from studies.literature.published import CurvePoint, published_curves

DEFAULTS = {"pmae": 0.20, "pmae_pixel_loss": 0.20, "mae": 0.75}


def expected_naive_regret(arms: int) -> float:
    """Mean of "best of K minus a fixed one" for equal arms, in standard deviations of one run: K = 5 gives 1.16."""
    value, _ = quad(lambda z: z * arms * np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * ndtr(z) ** (arms - 1), -8, 8)
    return float(value)


def judge_published(margin: float = 0.01, default_ratio: float = 0.20) -> list[dict[str, Any]]:
    """One row per published curve that has the default's ratio; accuracies and regrets are fractions.

    ``noise_to_explain`` is the standard deviation of a single run at which a flat curve would show this regret on
    average. The verdict is always ``inconclusive``: one run per point.
    """
    curves: dict[tuple[str, str, str], list[CurvePoint]] = defaultdict(list)
    for point in published_curves():
        curves[point.source, point.dataset, point.method].append(point)
    rows = []
    for (source, dataset, method), points in curves.items():
        wanted = DEFAULTS[method] if method == "mae" else default_ratio
        at_default = [p.accuracy for p in points if abs(p.ratio - wanted) < 1e-6]
        if not at_default or len(points) < 2:
            continue
        best = max(points, key=lambda p: p.accuracy)
        regret = best.accuracy - at_default[0]
        by_chance = expected_naive_regret(len(points))
        rows.append(
            {
                "source": source,
                "dataset": dataset,
                "method": method,
                "default_ratio": wanted,
                "best_ratio": best.ratio,
                "naive_regret": round(regret, 6),
                "ratios": len(points),
                "expected_by_chance_in_sd": by_chance,
                "noise_to_explain": regret / by_chance,
                "margin": margin,
                "verdict": "inconclusive",
                "reason": "one run per point: no interval, and the best of several noisy values was picked",
            }
        )
    return rows
