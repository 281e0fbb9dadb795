"""The sequence of settings follows from the seed and the results, not from the order in which trials end."""

from __future__ import annotations

import random

import pytest

from tests.tune.search.test_space import space_for
from tune.search.sampler import Proposals
from tune.search.space import Candidate


def accuracy(candidate: Candidate) -> float:
    return 1 - (candidate.ratio - 0.3) ** 2 - 0.01 * candidate.patches.patch_size


def run(search: str, order_seed: int, count: int = 16, lag: int = 4, recorded: dict | None = None) -> list[Candidate]:
    """Run trials three at a time that end in an order drawn from ``order_seed``."""
    space = space_for(32)
    proposals = Proposals(space, dict(enumerate(space.fixed())), search, seed=7, lag=lag, recorded=recorded or {})
    order, settings, running = random.Random(order_seed), [], []
    while len(settings) < count or running:
        candidate = proposals.next() if len(settings) < count and len(running) < 3 else None
        if candidate is not None:
            running.append(len(settings))
            settings.append(candidate)
        else:
            number = running.pop(order.randrange(len(running)))
            proposals.tell(number, "done", accuracy(settings[number]))
    return settings


@pytest.mark.parametrize("search", ["tpe", "gp", "qmc", "random"])
def test_the_order_of_ends_does_not_matter(search):
    assert run(search, 1) == run(search, 2)


def test_a_restart_continues_with_the_same_candidates():
    whole = run("tpe", 1)
    ran = {n: s for n, s in enumerate(whole[:11]) if n != 9}  # trial 9 was running when the driver was killed
    assert run("tpe", 5, recorded=ran) == whole


@pytest.mark.parametrize("search", ["tpe", "qmc"])
def test_a_restart_learns_from_what_was_drawn_before_it_was_rounded(search):
    whole = run(search, 1, count=80)
    assert run(search, 5, count=80, recorded=dict(enumerate(whole[:40]))) == whole


def test_a_record_that_would_not_be_proposed_again_is_kept():
    whole = run("tpe", 1)
    other = Candidate("pmae", whole[8].patches, 0.123, "expected", "pca")  # as if trial 4 had failed at the time
    settings = run("tpe", 1, recorded={**dict(enumerate(whole[:12])), 8: other})
    assert settings[:12] == [*whole[:8], other, *whole[9:12]]


def test_results_change_what_is_proposed():
    space = space_for(32)
    sequences = []
    for sign in (1, -1):
        proposals = Proposals(space, {}, "tpe", seed=0, lag=1)
        settings = []
        for number in range(24):
            settings.append(proposals.next())
            proposals.tell(number, "done", sign * settings[-1].ratio)
        sequences.append(settings)
    high, low = (sum(s.ratio for s in settings[-10:]) for settings in sequences)
    assert high > low


def test_a_number_waits_for_the_results_it_depends_on():
    proposals = Proposals(space_for(32), {}, "random", seed=0, lag=2)
    assert proposals.next() is not None and proposals.next() is not None
    assert proposals.next() is None
    proposals.tell(1, "done", 0.5)
    assert proposals.next() is None
    proposals.tell(0, "failed", None)
    assert proposals.next() is not None


def test_values_that_are_no_numbers_count_as_failures():
    proposals = Proposals(space_for(32), {}, "tpe", seed=0, lag=1)
    for number in range(8):
        assert proposals.next() is not None
        proposals.tell(number, "done", float("nan") if number % 2 else None)
    assert proposals.next() is not None
