"""How often a verdict errs and how often it settles, by simulation: ``python benchmarks/verdict_power.py``.

Writes ``benchmarks/results/verdict_power.json``. Every curve has a true regret of the default that is stated in
margins; noise is stated as the standard deviation of one accuracy in margins. At a true regret of 1 both *holds* and
*fails* are false; below it *fails* is false and *holds* is right; above it the other way round. On flat curves the
mean regret must be 0, and the naive "best minus default" shows what cross-fitting is for. Every cell draws from a
stream of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from studies.regret import estimate, pair

MARGIN = 0.01
ALPHA = 0.05
SEEDS = (5, 10, 20)
ARMS = 6
OUTPUT = Path(__file__).parent / "results" / "verdict_power.json"
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

# Unit variance, mean 0. "skewed" has a long tail of bad runs.
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: 1 - rng.exponential(size=shape),
}
# Accuracy of each arm above the default (arm 0), in true regrets.
SHAPES = {
    "one best": np.array([0, 0, 0, 0, 0, 1.0]),
    "all better": np.array([0, 1, 1, 1, 1, 1.0]),
    "peaked": np.array([0, 0.6, 0.9, 1, 0.7, 0.2]),
}
SPREADS = {
    "equal": np.ones(ARMS),
    "best noisiest": np.linspace(0.3, 2, ARMS),
    "default noisiest": np.array([2, *[0.4] * (ARMS - 1)]),
}


def draw(
    rng: np.random.Generator, noise: Noise, seeds: int, means: np.ndarray, spread: np.ndarray, shared: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """(n, K) validation and test accuracies: a seed's own level, training noise that both splits share, sampling."""
    shape = (seeds, len(means))
    level, training = rng.standard_normal((seeds, 1)) * 2 * spread.mean(), noise(rng, shape)
    val, test = (
        means + level + spread * (np.sqrt(shared) * training + np.sqrt(1 - shared) * noise(rng, shape)) for _ in "vt"
    )
    return val, test


def rates(
    noise: str, shape: str, spread: str, sd: float, regret: float, seeds: int, repeats: int, stream: int = 0
) -> dict[str, Any]:
    """Share of simulated verdicts that hold and fail, and the mean estimate, at ``regret`` margins."""
    cell = f"{noise} {shape} {spread} {sd} {regret} {seeds} {stream}"
    rng = np.random.default_rng(zlib.crc32(cell.encode()))
    means, deviations = SHAPES[shape] * regret * MARGIN, SPREADS[spread] * sd * MARGIN
    holds = fails = covered = 0
    regrets, naive = [], []
    for _ in range(repeats):
        found = estimate(pair(*draw(rng, NOISES[noise], seeds, means, deviations)), 0)
        low, high = found.lower(ALPHA), found.upper(ALPHA)
        holds, fails = holds + (high < MARGIN), fails + (low > MARGIN)
        covered += low <= regret * MARGIN <= high
        regrets.append(found.regret / MARGIN)
        naive.append(found.advantages.max() * np.sqrt(seeds) / (sd * MARGIN))
    return {
        "noise": noise, "shape": shape, "spread": spread, "sd": sd, "true_regret": regret, "seeds": seeds,
        "repeats": repeats, "holds": holds / repeats, "fails": fails / repeats, "covered": covered / repeats,
        "mean_regret": float(np.mean(regrets)), "error_of_mean": float(np.std(regrets) / np.sqrt(repeats)),
        "naive_in_deviations": float(np.mean(naive)),
    }  # fmt: skip


def main() -> None:
    """Run the grid and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    errors = [
        rates(noise, shape, spread, sd, 1.0, seeds, repeats)
        for noise, shape, spread, sd, seeds in itertools.product(NOISES, SHAPES, SPREADS, (0.3, 1.0), SEEDS)
    ]
    power = [
        rates("normal", "peaked", "equal", sd, regret, seeds, repeats)
        for sd, regret, seeds in itertools.product((0.3, 0.6, 1.0), (0.0, 0.5, 2.0, 3.0), SEEDS)
    ]
    flat = [
        rates("normal", "peaked", spread, 1.0, 0.0, seeds, repeats, stream=1)
        for spread, seeds in itertools.product(SPREADS, SEEDS)
    ]
    _print_tables(errors, power, flat)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    record = {
        "unit": "margins (0.01 of accuracy)", "arms": ARMS, "commit": commit.stdout.strip(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "errors_at_the_margin": errors, "power": power, "flat": flat,
    }  # fmt: skip
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


def _print_tables(errors: list[dict[str, Any]], power: list[dict[str, Any]], flat: list[dict[str, Any]]) -> None:
    print("false verdicts at the margin, worst (mean) over curves")
    for noise, seeds in itertools.product(NOISES, SEEDS):
        part = [row for row in errors if row["noise"] == noise and row["seeds"] == seeds]
        texts = [f"{n} {max(r[n] for r in part):.3f} ({np.mean([r[n] for r in part]):.3f})" for n in ("holds", "fails")]
        print(f"  {noise:7} {seeds:3} seeds   {'   '.join(texts)}")
    print("power: share of right verdicts (normal noise, peaked curve)")
    for sd, regret in itertools.product((0.3, 0.6, 1.0), (0.0, 0.5, 2.0, 3.0)):
        part = [row for row in power if row["sd"] == sd and row["true_regret"] == regret]
        right = "holds" if regret < 1 else "fails"
        print(f"  sd {sd}, regret {regret}: " + ", ".join(f"{row['seeds']} seeds {row[right]:.2f}" for row in part))
    print("flat curves: mean regret in margins, and the naive one in deviations of a mean")
    for row in flat:
        print(
            f"  {row['spread']:16} {row['seeds']:3} seeds   {row['mean_regret']:+.3f} +- {row['error_of_mean']:.3f}   "
            f"naive {row['naive_in_deviations']:.2f}"
        )


if __name__ == "__main__":
    main()
