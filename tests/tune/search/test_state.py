"""The state of a study: neither the order in which trials end nor kills and restarts change what is recorded."""

from __future__ import annotations

import random
import zlib

import pytest

from tune import ConfirmOptions, DataOptions, SearchOptions, StudyOptions
from tune.planning.plan import StudyPlan, plan_study
from tune.search.state import Idle, Start, StudyState
from tune.simulation import _row
from tune.trial.spec import TrialSpec

LAG = 3


def accuracy(method: str, ratio: float | None, patch: int | None, seed: int, phase: str) -> dict[str, float]:
    noise = zlib.crc32(repr((method, ratio, patch, seed, phase)).encode()) / 2**32 / 50
    level = 0.5 if ratio is None else 0.7 - (ratio - 0.3) ** 2
    return {"val_linear": level + noise, "test_linear": level + noise}


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    options = StudyOptions(
        data=DataOptions(limit=100), search=SearchOptions(methods=("pmae",), trials=10),
        confirm=ConfirmOptions(confirm_seeds=2, ladder=(0.1, 0.2, 0.5), until_settled=True, margin="0.002"),
    )  # fmt: skip
    return plan_study(options)


class Crash(Exception):
    """The driver is killed."""


def run(state: StudyState, plan: StudyPlan, rng: random.Random, concurrent: int, crash: float = 0.0) -> list[int]:
    """Run up to ``concurrent`` trials that end in random order; returns how many ran, step by step."""
    running: list[TrialSpec] = []
    counts = []
    while True:
        step = state.next() if len(running) < concurrent else Idle.WAIT
        if step is Idle.FINISHED:
            return counts
        if isinstance(step, Start):
            if step.record is None:
                running.append(step.spec)
                counts.append(sum(spec.phase == "explore" for spec in running))
            continue
        if rng.random() < crash:
            raise Crash
        spec = running.pop(rng.randrange(len(running)))
        row = _row(plan, spec, accuracy)
        if rng.random() < crash:
            row = {**row, "status": "interrupted", "val_linear": None, "test_linear": None}
            state.end(spec.trial_id, row)
            raise Crash
        state.end(spec.trial_id, row)


def found(state: StudyState) -> dict[str, tuple]:
    columns = ("phase", "method", "ratio", "patch_size", "seed", "status", "val_linear", "test_linear")
    return {trial_id: tuple(row.get(c) for c in columns) for trial_id, row in state.records.items()}


@pytest.fixture(scope="module")
def undisturbed(plan) -> StudyState:
    state = StudyState(plan, (), LAG)
    run(state, plan, random.Random(0), concurrent=1)
    assert len(state.rounds) > 1 and state.ended == state.planned == len(state.records)
    return state


@pytest.mark.parametrize("seed", range(6))
def test_neither_order_nor_kills_change_the_records(plan, undisturbed, seed):
    rng = random.Random(seed)
    state = StudyState(plan, (), LAG)
    for crash in (0.2, 0.1, 0.1, 0.05, 0.05, 0.0):
        try:
            run(state, plan, rng, concurrent=rng.randint(1, 6), crash=crash)
            break
        except Crash:
            state = StudyState(plan, list(state.records.values()), LAG)
    assert found(state) == found(undisturbed)


def test_the_lag_limits_proposals_and_nothing_else(plan):
    state = StudyState(plan, (), LAG)
    fixed = len(plan.known_candidates())
    counts = run(state, plan, random.Random(1), concurrent=8)
    assert fixed < plan.trials and max(counts[fixed:]) <= LAG
    state = StudyState(plan, list(state.records.values())[: plan.trials], LAG)
    started = [step for step in iter(state.next, Idle.WAIT) if isinstance(step, Start) and step.record is None]
    assert len(started) == len(state.rounds[0]) > LAG  # a round starts as a whole


def test_a_study_that_stops_starts_nothing_and_waits_for_what_runs(plan):
    state = StudyState(plan, (), LAG)
    step = state.next()
    assert isinstance(step, Start)
    first = OSError(28, "full")
    state.stop(20.0, first)
    state.stop(30.0, OSError(5, "later"))
    assert state.next() is Idle.WAIT and state.problem is first and not state.interrupted
    assert not state.overdue(20.0) and state.overdue(20.1)
    state.end(step.spec.trial_id, _row(plan, step.spec, accuracy))
    assert state.next() is Idle.FINISHED and not state.running
