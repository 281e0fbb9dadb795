"""Levels for looking at the data several times: alpha-spending after Lan & DeMets 1983, Pocock-type.

A study that adds seeds until its verdict settles is analyzed after every round. Each interim analysis (look) spends a
part of the error alpha, so that all of them together err with at most alpha; Pocock-type spending lets a clear case end
early. The levels rest on normal increments (Armitage, McPherson & Rowe 1969); as levels of Student's bounds they are
approximate with few seeds.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import scipy  # which loads its parts when they are used: planning a study needs none

from studies.errors import StudyError

_POINTS = 1201
_LOWEST = -8.0  # standard normal; values below have no weight


def alpha_spent(fraction: float, alpha: float = 0.05) -> float:
    """Error spent when ``fraction`` of the planned seeds is in: alpha ln(1 + (e - 1) fraction)."""
    return alpha * math.log(1 + (math.e - 1) * min(max(fraction, 0.0), 1.0))


def level_for_look(look: int, looks: int, alpha: float = 0.05) -> float:
    """One-sided level for look number ``look`` (from 1) of at most ``looks``, equally spaced in seeds.

    ``judge(..., alpha=level_for_look(look, looks))`` is the verdict to stop by. With one look it is ``alpha``.
    """
    if not 1 <= look <= looks:
        raise StudyError(f"look is {look}; with {looks} planned looks it must be 1 to {looks}")
    if not 0 < alpha < 0.5:
        raise StudyError(f"alpha is {alpha}; it must be between 0 and 0.5")
    return _levels(looks, alpha)[look - 1]


@functools.lru_cache(maxsize=64)
def _levels(looks: int, alpha: float) -> tuple[float, ...]:
    """Levels c_k with P(Z_1 < c_1, ..., Z_{k-1} < c_{k-1}, Z_k >= c_k) = what look k may spend."""
    spent = [alpha_spent(look / looks, alpha) for look in range(looks + 1)]
    bounds = [float(scipy.special.ndtri(1 - spent[1]))]
    # Density of the score S_k = sqrt(k) Z_k on a grid, of paths that no look has stopped.
    grid = np.linspace(_LOWEST, bounds[0], _POINTS)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for look in range(2, looks + 1):
        weights = _simpson(grid) * density
        share = spent[look] - spent[look - 1]
        previous, root = grid, math.sqrt(look)

        def excess(
            z: float, x: np.ndarray = previous, w: np.ndarray = weights, r: float = root, s: float = share
        ) -> float:
            return float(w @ scipy.special.ndtr(x - z * r)) - s

        bounds.append(float(scipy.optimize.brentq(excess, -4.0, 10.0)))
        grid = np.linspace(_LOWEST * root, bounds[-1] * root, _POINTS)
        density = np.exp(-((grid[:, None] - previous) ** 2) / 2) @ weights / math.sqrt(2 * math.pi)
    return tuple(float(scipy.special.ndtr(-bound)) for bound in bounds)


def _simpson(grid: np.ndarray) -> np.ndarray:
    weights = np.ones(len(grid))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return weights * (grid[1] - grid[0]) / 3


@dataclass(frozen=True)
class Looks:
    """Seeds in rounds, the verdict computed after each: ``seeds_per_round`` and how many rounds there are at most."""

    seeds_per_round: int
    rounds: int

    def level(self, seeds: int, alpha: float) -> float:
        """Level of a bound on ``seeds`` seeds, so that all rounds together err with at most ``alpha``."""
        look = min(max(-(-seeds // self.seeds_per_round), 1), self.rounds)
        return level_for_look(look, self.rounds, alpha)
