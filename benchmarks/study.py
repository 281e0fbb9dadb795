"""What a study costs beside its trials, and when its verdict is there: the default study, from the prompt.

    python benchmarks/study.py                          # the README's first command
    python benchmarks/study.py --rounds 3 -- --trials 4 --confirm-seeds 1 --epochs 3

Start to first trial: from the command to the first trial's own start (imports, Ray, plan, components, processes).
Overhead of a trial: what the processes that train were not training or probing for, from the first trial's start to
the last one's end, divided by the number of trials. Verdict: until the answer is printed; whole: until the command
has ended, figures and report included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, RESULTS, describe_machine, spread, write_result

from studies.records import read_study

PROGRAM = REPOSITORY / "tune" / "masking_ratio_study.py"


def run(options: list[str]) -> dict[str, float]:
    """Seconds of one study."""
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, str(PROGRAM), "--storage", storage, "--name", "study", *options]
        began, answered = time.time(), 0.0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("next:") and not answered:  # right after the answer
                    answered = time.time()
        ended = time.time()
        if process.returncode:
            sys.exit(f"the study ended with {process.returncode}: {' '.join(command)}")
        return {**_overheads(Path(storage) / "study", began), "verdict": answered - began, "whole": ended - began}


def _overheads(folder: Path, began: float) -> dict[str, float]:
    rows = read_study(folder).trials.select(["started_at", "seconds"]).to_pylist()
    concurrent = json.loads((folder / "study.json").read_text())["resources"]["concurrent"]
    starts = [row["started_at"].timestamp() for row in rows]
    ends = [start + row["seconds"] for start, row in zip(starts, rows, strict=True)]
    busy = sum(row["seconds"] for row in rows)
    return {
        "start_to_first_trial": min(starts) - began,
        "overhead_of_a_trial": ((max(ends) - min(starts)) * concurrent - busy) / len(rows),
        "trials": len(rows),
        "training_and_probing_of_a_trial": busy / len(rows),
    }


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("study", nargs="*", help="options of the study, after --")
    options = parser.parse_args()
    runs = []
    for turn in range(options.rounds):
        runs.append(run(options.study))
        print(f"round {turn + 1}: " + ", ".join(f"{k} {v:.1f}" for k, v in runs[-1].items()), flush=True)
    found: dict[str, Any] = {name: spread([r[name] for r in runs]) for name in runs[0]}
    for name, seconds in found.items():
        print(f"{name:34} {seconds['median']:8.2f} ({seconds['lowest']:.2f} to {seconds['highest']:.2f})")
    machine = describe_machine("cpu", ("torch", "timm", "ray", "optuna"), __file__)
    result = {"benchmark": "study", **machine, "options": options.study, "found": found, "runs": runs}
    write_result(result, options.out or RESULTS / "study-cpu.json")


if __name__ == "__main__":
    main()
