"""The accuracies that the papers print, as data to draw, and what they allow one to conclude about the defaults.

Sources: Bizeul et al. 2025 (PMAE, arXiv 2502.06314: its figures over the ratio), He et al. 2022 (MAE, arXiv 2111.06377,
Figure 5) and Kong et al. 2023 (arXiv 2306.04898). Every number is one run, so none has an interval.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr

from studies.statistics.ratio_curves import DEFAULT_RATIOS


class CurvePoint(NamedTuple):
    """One point of a published curve of accuracy over the masking ratio; sides in pixels, shares as fractions."""

    source: str  # the paper and where in it
    dataset: str  # ``cifar10``, ``tinyimagenet``, ``dermamnist``, ``bloodmnist``, ``pathmnist`` or ``imagenet1k``
    image_size: int
    patch_size: int
    method: str  # ``pmae`` (loss on components, Eq. 3.1), ``pmae_pixel_loss`` (Eq. A.1) or ``mae``
    ratio: float  # masked share of the variance (PMAE) or of the patches (MAE)
    accuracy: float  # top-1, of a linear probe


@cache
def published_curves() -> tuple[CurvePoint, ...]:
    """Every published point of accuracy over the ratio, in the papers' order."""
    text = (Path(__file__).parent / "ratio_curves.csv").read_text(encoding="utf-8")
    points = []
    for row in csv.DictReader(text.splitlines()):
        sides = int(row["image_size"]), int(row["patch_size"])
        shares = (round(float(row[f"{name}_percent"]) / 100, 6) for name in ("ratio", "accuracy"))
        points.append(CurvePoint(row["source"], row["dataset"], *sides, row["method"], *shares))
    return tuple(points)


def published_curve(dataset: str, method: str) -> tuple[CurvePoint, ...]:
    """One paper's curve for one data set, by rising ratio; empty where no paper has one."""
    points = [p for p in published_curves() if (p.dataset, p.method) == (dataset.lower(), method)]
    first = [p for p in points if p.source == points[0].source]  # ImageNet has two papers: their settings differ
    return tuple(sorted(first, key=lambda p: p.ratio))


def published_regrets() -> list[tuple[str, str, float, float, float, float]]:
    """Data set, method, default ratio, best ratio, regret and noise for every published curve that has the default.

    The regret is naive: the best of K noisy values is above the truth even where all ratios are equal. The noise is the
    standard deviation of a single run at which a flat curve would show this regret on average.
    """
    curves: dict[tuple[str, str, str], list[CurvePoint]] = defaultdict(list)
    for point in published_curves():
        curves[point.source, point.dataset, point.method].append(point)
    found = []
    for (_, dataset, method), points in curves.items():
        default = DEFAULT_RATIOS.get(method, np.nan)
        at_default = [p.accuracy for p in points if abs(p.ratio - default) < 1e-6]
        if at_default and len(points) > 1:
            best = max(points, key=lambda p: p.accuracy)
            regret = best.accuracy - at_default[0]
            noise = regret / _expected_naive_regret(len(points))
            found.append((dataset, method, default, best.ratio, round(regret, 6), noise))
    return found


def _expected_naive_regret(ratios: int) -> float:
    """Mean of "best of K minus a fixed one" for equal ratios, in standard deviations of one run: K = 5 gives 1.16."""
    value, _ = quad(lambda z: z * ratios * np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * ndtr(z) ** (ratios - 1), -8, 8)
    return float(value)
