"""How often a verdict errs and how often it settles, by simulation: ``python benchmarks/verdict_power.py``.

Runs whole studies through ``tune.simulate``, which plans, confirms and judges as a real study does, with a function of
known truth in place of training. Every study confirms PMAE's default ladder on digits: a fixed number of seeds, or in
rounds until the verdict is settled. Writes ``benchmarks/results/verdict_power.json`` and prints a Markdown table.

All numbers are points of accuracy. A truth is scaled so that the best rung beats the default by its *regret*, except
where the peak is between two rungs: no ladder sees it. At a regret of 1, the margin, *holds* and *fails* are both
false. The untrained encoder scores 15 points less, except where nothing is gained; there every verdict but
*uninformative* is false.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from measuring import RESULTS, describe_machine, write_result

from tune.options import ConfirmOptions, SearchOptions, StudyOptions
from tune.simulation import simulate

MARGIN, DEFAULT = 0.01, 0.2
LADDER = (0.05, 0.1, 0.2, 0.35, 0.55, 0.75, 0.9)
LEVEL, UNTRAINED = 0.75, 0.60
SEED_SD = 1.0  # points that a seed is better or worse at every ratio alike
TEST_IMAGES = 359
COLLAPSE = 15.0  # points that a run loses which collapses
COLUMNS = ("holds", "fails", "uninformative", "inconclusive")
Curve = Callable[[float], float]


def flat(ratio: float) -> float:
    """No ratio matters."""
    return 0.0


def leveling_off(ratio: float) -> float:
    """Best at 0.05, ever flatter towards larger ratios."""
    return math.exp(-(ratio - 0.05) / 0.15)


def rising(ratio: float) -> float:
    """A line: best at 0.9."""
    return ratio


def one_rung(ratio: float) -> float:
    """Only 0.55 is better."""
    return float(ratio == 0.55)


def constant(ratio: float) -> float:
    """Equal noise at every ratio."""
    return 1.0


def peak(place: float, width: float) -> Curve:
    """A bump of standard deviation ``width``."""
    return lambda ratio: math.exp(-0.5 * ((ratio - place) / width) ** 2)


@dataclass(frozen=True)
class Truth:
    """What the simulated accuracies come from.

    Attributes:
        name: In the table.
        curve: Accuracy over the ratio, up to a factor.
        regret: Points that the best ratio is better than the default.
        sd: Standard deviation of a single run in points, without the part that a seed's runs share.
        noise: Factor of the deviation over the ratio.
        collapse: Share of the default's runs that lose ``COLLAPSE`` points; the regret is then all due to them.
        images: Accuracies are multiples of 1 over this number; None leaves them as they are.
        gain: Points that training adds to the untrained encoder.
    """

    name: str
    curve: Curve
    regret: float
    sd: float = 0.8
    noise: Curve = constant
    collapse: float = 0.0
    images: int | None = None
    gain: float = 15.0

    def mean(self, ratio: float) -> float:
        """True accuracy, a fraction, as if the ratios between the rungs were part of the ladder."""
        return LEVEL + self._scale * (self.curve(ratio) - self.curve(DEFAULT))

    @functools.cached_property
    def _scale(self) -> float:
        span = max(self.curve(k / 1000) for k in range(50, 901)) - self.curve(DEFAULT)
        return self.regret * MARGIN / span if span > 0 else 0.0


TRUTHS = (
    Truth("flat", flat, 0, 0.6),
    Truth("flat", flat, 0),
    Truth("flat, accuracies of 359 images", flat, 0, images=TEST_IMAGES),
    Truth("leveling off from .05", leveling_off, 1),
    Truth("leveling off from .05", leveling_off, 3),
    Truth("rising", rising, 1),
    Truth("rising", rising, 3),
    Truth("peak at .35", peak(0.35, 0.15), 1),
    Truth("peak at .55", peak(0.55, 0.25), 1),
    Truth("peak at .55", peak(0.55, 0.25), 3),
    Truth("peak at .55, accuracies of 359 images", peak(0.55, 0.25), 1, images=TEST_IMAGES),
    Truth("peak at .55, noise grows with the ratio", peak(0.55, 0.25), 1, noise=lambda ratio: 0.4 + 1.2 * ratio),
    Truth("leveling off from .05, noise falls with the ratio", leveling_off, 1, noise=lambda ratio: 1.6 - 1.2 * ratio),
    Truth(".55 alone is better, with three times the noise", one_rung, 1, noise=lambda ratio: 1 + 2 * one_rung(ratio)),
    Truth("flat", flat, 0, 1.5),
    Truth("peak at .55", peak(0.55, 0.25), 1, 1.5),
    Truth("peak at .55", peak(0.55, 0.25), 3, 1.5),
    Truth("20 % collapses in one run of ten", flat, 1.5, 0.6, collapse=0.1),
    Truth("narrow peak at .45, between rungs", peak(0.45, 0.04), 2),
    Truth("nothing gained", flat, 0, gain=0.0),
    Truth("nothing gained, ratios differ", peak(0.55, 0.25), 0.5, gain=0.0),
)
MODES = {
    "5 seeds": ConfirmOptions(ladder=LADDER, confirm_seeds=5),
    "10 seeds": ConfirmOptions(ladder=LADDER, confirm_seeds=10),
    "until settled": ConfirmOptions(ladder=LADDER, confirm_seeds=4, until_settled=True),
}


class Simulated:
    """Accuracies of one study; ``trials`` counts those that would have been trained."""

    def __init__(self, truth: Truth, rng: np.random.Generator) -> None:
        self.truth, self.rng, self.trials = truth, rng, 0
        self.levels: dict[int, float] = {}

    def __call__(
        self, method: str, ratio: float | None, patch_size: int | None, seed: int, phase: str
    ) -> Mapping[str, float]:
        """Validation and test accuracy of one trial."""
        truth = self.truth
        if method == "pixels":
            return {"val_linear": 0.95, "test_linear": 0.95}
        if ratio is None:
            mean, sd = LEVEL - truth.gain * MARGIN, truth.sd
        else:
            self.trials += 1
            mean, sd = truth.mean(ratio), truth.sd * truth.noise(ratio)
        level = self.levels.setdefault(seed, SEED_SD * self.rng.standard_normal())
        values = mean + MARGIN * (level + sd * self.rng.standard_normal(2))
        if truth.collapse and ratio == DEFAULT and self.rng.random() < truth.collapse:
            values -= MARGIN * COLLAPSE
        if truth.images:
            values = np.round(values * truth.images) / truth.images
        return {"val_linear": float(values[0]), "test_linear": float(values[1])}


def judge_studies(truth: Truth, confirm: ConfirmOptions, name: str, repeats: int) -> tuple[Counter[str], list[int]]:
    """Verdicts and numbers of trials of ``repeats`` simulated studies; ``name`` decides their random numbers."""
    options = StudyOptions(search=SearchOptions(methods=("pmae",), search="none"), confirm=confirm)
    stream = zlib.crc32(name.encode())
    found: Counter[str] = Counter()
    trials = []
    for number in range(repeats):
        objective = Simulated(truth, np.random.default_rng([stream, number]))
        found[simulate(options, objective, seed=number).overall["verdict"]] += 1
        trials.append(objective.trials)
    return found, trials


def rates(truth: Truth, mode: str, repeats: int) -> dict[str, Any]:
    """Share of ``repeats`` studies that reach each verdict, and how many trials they take."""
    name = f"{truth.name} {truth.regret} {truth.sd} {mode}"
    found, trials = judge_studies(truth, MODES[mode], name, repeats)
    return {
        "truth": truth.name, "regret": truth.regret, "sd": truth.sd, "gain": truth.gain, "mode": mode,
        "repeats": repeats, **{name: found[name] / repeats for name in COLUMNS}, "mean_trials": float(np.mean(trials)),
    }  # fmt: skip


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line for each truth and mode."""
    head = ("truth", "regret", "sd", "seeds", *(f"{name}, %" for name in COLUMNS), "mean trials")
    cells = [
        (
            row["truth"], f"{row['regret']:g}", f"{row['sd']:g}", row["mode"],
            *(f"{100 * row[name]:.0f}" for name in COLUMNS), f"{row['mean_trials']:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells))


def main() -> None:
    """Simulate every truth in every mode, write the rates and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=400, help="studies for each line (default 400)")
    parser.add_argument("--truth", help="measure this truth only and replace its lines in the results")
    options = parser.parse_args()
    repeats, path = options.repeats, RESULTS / "verdict_power.json"
    if repeats < 1:
        parser.error("--repeats must be at least 1")
    start = time.perf_counter()
    chosen = [truth for truth in TRUTHS if options.truth in (None, truth.name)]
    rows = [rates(truth, mode, repeats) for truth in chosen for mode in MODES]
    if options.truth is not None:
        measured = {(row["truth"], row["regret"], row["sd"], row["mode"]): row for row in rows}
        stored = json.loads(path.read_text())
        for i, row in enumerate(stored["rows"]):
            stored["rows"][i] = measured.get((row["truth"], row["regret"], row["sd"], row["mode"]), row)
        print(markdown(rows))
        write_result(stored, path)
        return
    result = describe_machine("cpu", ("numpy", "scipy", "optuna"), __file__) | {
        "unit": "points of accuracy", "margin": 1.0, "default_ratio": DEFAULT, "ladder": LADDER, "repeats": repeats,
        "standard_error_of_5_percent": math.sqrt(0.05 * 0.95 / repeats), "seconds": time.perf_counter() - start,
        "rows": rows,
    }  # fmt: skip
    print(markdown(rows))
    write_result(result, path)


if __name__ == "__main__":
    main()
