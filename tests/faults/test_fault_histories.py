"""Whatever goes wrong while a study runs, its table ends as that of the undisturbed run.

More histories: ``python -m tests.faults --histories 100000 --first-seed 1000``; ``--seed N`` replays one with its log.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest

from tests.faults.world import History, run_history

HISTORIES = 1_000
BATCHES = 10

# Seeds that fail without a repair that fault histories led to, and what they found.
REGRESSIONS = {
    54: "a rename was not safe from a loss of power, but the truncation of the journal after it was",
    195: "the name of a new journal was not safe from a loss of power",
    43: "the known owners were not safe from a loss of power, so that the store's older rows replaced newer ones",
    1099: "what was downloaded from the store was not safe from a loss of power",
    2828: "a driver that was suspended for longer than the lease wrote to the store of its successor",
    107: "two drivers became owners at the same time because the store was slow",
}


@pytest.fixture(autouse=True)
def open_files_of_killed_drivers_are_no_fault() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def check(history: History) -> None:
    assert history.violation is None, "\n".join([f"seed {history.seed}: {history.violation}", *history.events])


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_seeds_that_failed_once(seed):
    check(run_history(seed, losses=False))  # as when they failed


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_disturbed_study_finds_what_an_undisturbed_one_finds(batch):
    for seed in range(batch, HISTORIES, BATCHES):
        check(run_history(seed))


@pytest.mark.parametrize("seed", [7, 20, 107])
def test_a_seed_determines_the_history(seed):
    first, second = run_history(seed), run_history(seed)
    assert (first.events, first.steps) == (second.events, second.steps)
