"""Run many histories, or replay one: ``python -m tests.faults --histories 100000 --first-seed 0``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile


def main() -> int:
    """Print the failing seeds with their events; 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--histories", type=int, default=1000, help="How many to run.")
    parser.add_argument("--first-seed", type=int, default=0, help="Seed of the first one.")
    parser.add_argument("--seed", type=int, help="Replay this one and print its events.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PMAE_CACHE"] = cache
        from tests.faults.world import run_history

        first, count = (options.first_seed, options.histories) if options.seed is None else (options.seed, 1)
        failed = 0
        for seed in range(first, first + count):
            history = run_history(seed)
            if history.violation is not None or options.seed is not None:
                failed += history.violation is not None
                print(f"seed {seed}: {history.violation or 'as undisturbed'}", *history.events, sep="\n  ", flush=True)
        print(f"{count - failed} of {count} histories ended as the undisturbed study")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
