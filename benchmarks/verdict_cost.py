"""What a settled verdict costs, in trials and trial-seconds: ``python benchmarks/verdict_cost.py``.

Whole studies are simulated with known truth (``tune.simulate``), as in ``verdict_power.py``. Compared are

* the fixed ladder with 5 and 10 paired seeds,
* the race (``--until-settled``: at most five rounds of 4 seeds, rungs stop as soon as they are settled),
* the plain grid: the same rungs with all 20 seeds that the race may use, judged once,
* the plain grid with the fewest seeds that settle as often as the race does,
* Optuna alone: TPE proposes as many ratios as the fixed ladder with 10 seeds has trials, each trained once; its best
  trial is compared with its trial nearest to the default, as one would read it off a study without a verdict.

The last has no error rate that anyone could choose: the table shows how often it says *fails* where nothing matters.
Trial-seconds are trials times the CPU time of a PMAE trial on digits (``benchmarks/results/recipes.json``).
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections import Counter
from typing import Any

import numpy as np
import optuna
from measuring import RESULTS, describe_machine, write_result
from tables import verdict_cost
from verdict_power import DEFAULT, LADDER, MARGIN, Truth, flat, judge_studies, leveling_off, peak

from tune.options import ConfirmOptions

TRUTHS = (
    Truth("flat", flat, 0, 0.6),
    Truth("flat", flat, 0),
    Truth("leveling off from .05", leveling_off, 1),
    Truth("peak at .55", peak(0.55, 0.25), 1),
    Truth("leveling off from .05", leveling_off, 3),
    Truth("peak at .55", peak(0.55, 0.25), 3),
    Truth("flat", flat, 0, 1.5),
    Truth("peak at .55", peak(0.55, 0.25), 3, 1.5),
)
MODES = {
    "ladder, 5 seeds": ConfirmOptions(ladder=LADDER, confirm_seeds=5),
    "ladder, 10 seeds": ConfirmOptions(ladder=LADDER, confirm_seeds=10),
    "race": ConfirmOptions(ladder=LADDER, confirm_seeds=4, until_settled=True),
    "grid, 20 seeds": ConfirmOptions(ladder=LADDER, confirm_seeds=20),
}
SEARCHED = 70  # trials of Optuna alone


def judge(truth: Truth, confirm: ConfirmOptions, repeats: int) -> tuple[Counter[str], list[int]]:
    """Verdicts and numbers of trials of ``repeats`` simulated studies."""
    return judge_studies(truth, confirm, f"cost {truth.name} {truth.regret} {truth.sd} {confirm}", repeats)


def search_alone(truth: Truth, repeats: int) -> Counter[str]:
    """What the best trial of a TPE search says when it is compared with the one nearest to the default."""
    found: Counter[str] = Counter()
    stream = zlib.crc32(f"tpe {truth.name} {truth.regret} {truth.sd}".encode())
    for number in range(repeats):
        rng = np.random.default_rng([stream, number])
        search = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=number))
        ratios, accuracies = [], []
        for _ in range(SEARCHED):
            trial = search.ask()
            ratios.append(trial.suggest_float("ratio", 0.05, 0.9))
            accuracies.append(truth.mean(ratios[-1]) + MARGIN * truth.sd * 2**0.5 * rng.standard_normal())
            search.tell(trial, accuracies[-1])
        nearest = int(np.argmin(np.abs(np.array(ratios) - DEFAULT)))
        found["fails" if max(accuracies) - accuracies[nearest] > MARGIN else "holds"] += 1
    return found


def fewest_seeds(truth: Truth, share: float, repeats: int) -> int:
    """Seeds with which a grid that is judged once settles in at least ``share`` of the studies; at most 20."""
    for seeds in range(2, 20):
        found, _ = judge(truth, ConfirmOptions(ladder=LADDER, confirm_seeds=seeds), repeats)
        if (found["holds"] + found["fails"]) / repeats >= share:
            return seeds
    return 20


def measure(truth: Truth, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """A row for every way to a verdict."""
    rows = []

    def add(mode: str, found: Counter[str], trials: float) -> None:
        shares = {name: found[name] / repeats for name in ("holds", "fails", "inconclusive")}
        rows.append(
            {
                "truth": truth.name, "regret": truth.regret, "sd": truth.sd, "mode": mode, "repeats": repeats, **shares,
                "trials": trials, "trial_seconds": trials * seconds,
            }
        )  # fmt: skip

    for mode, confirm in MODES.items():
        found, trials = judge(truth, confirm, repeats)
        add(mode, found, float(np.mean(trials)))
    race = rows[list(MODES).index("race")]
    seeds = fewest_seeds(truth, race["holds"] + race["fails"], repeats)
    found, trials = judge(truth, ConfirmOptions(ladder=LADDER, confirm_seeds=seeds), repeats)
    add(f"grid, {seeds} seeds (as settled as the race)", found, float(np.mean(trials)))
    add("Optuna alone", search_alone(truth, repeats), SEARCHED)
    return rows


def main() -> None:
    """Simulate, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=400, help="studies for each line (default 400)")
    repeats = parser.parse_args().repeats
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recipes = json.loads((RESULTS / "recipes.json").read_text())
    seconds = recipes["rows"]["digits pmae"]["cpu_seconds"]
    start = time.perf_counter()
    rows = [row for truth in TRUTHS for row in measure(truth, repeats, seconds)]
    result = describe_machine("cpu", ("numpy", "scipy", "optuna"), __file__) | {
        "unit": "points of accuracy", "margin": 1.0, "repeats": repeats, "seconds_per_trial": seconds,
        "seconds": time.perf_counter() - start, "rows": rows,
    }  # fmt: skip
    print(verdict_cost(result))
    write_result(result, RESULTS / "verdict_cost.json")


if __name__ == "__main__":
    main()
