"""The state of a running study, which only its own methods change: records, rounds, running trials, what ended it.

It is pure: no Ray, no files, and the time is an argument, so that ``tune.simulation`` and tests can replay a study. All
that it decides follows from the plan and the records, so that a killed study resumes as if undisturbed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from studies.storage.rows import TrialRow
from tune.search.confirm import config_of, next_round
from tune.search.sampler import FINAL, Proposals
from tune.search.space import Candidate, explore_seed
from tune.trial.spec import TrialSpec

if TYPE_CHECKING:
    from tune.planning.plan import StudyPlan


@dataclass(frozen=True)
class Start:
    """The next trial."""

    spec: TrialSpec
    candidate: Candidate | None = None  # its point of the search space while exploring
    record: TrialRow | None = None  # its row if it has ended before; it is not run again


class Idle(Enum):
    """Why there is no next trial."""

    WAIT = "a running trial decides what comes next"
    FINISHED = "the study has ended"


class StudyState:
    """One study: ``next`` gives the trial to start, ``end`` takes its record; ``lag`` as in :class:`Placement`."""

    def __init__(self, plan: StudyPlan, records: Iterable[TrialRow], lag: int) -> None:
        self.records = {row["trial_id"]: row for row in records}  # those with a final status are not run again
        self.rounds: list[list[TrialSpec]] = []  # of the confirm phase, begun ones only, controls included
        self.interrupted = False  # by the user
        self.problem: Exception | None = None  # the first one that stopped the study before its end
        self._plan = plan
        self._seed = plan.options.training.seed
        self._running: dict[str, TrialSpec] = {}
        self._lost: dict[str, TrialSpec] = {}  # to be started again
        self._losses: Counter[str] = Counter()  # by trial id, of processes
        self._proposals = Proposals(
            plan.space, plan.known_candidates(), plan.search, self._seed, lag, self._recorded_candidates()
        )
        self._numbers: dict[str, int] = {}  # of explored trials, by trial id
        self._draws: Counter[Candidate] = Counter()
        self._queue: deque[TrialSpec] = deque()
        self._deadline: float | None = None  # while no further trials are started

    @property
    def running(self) -> list[TrialSpec]:
        """Trials that were started and have not ended."""
        return [*self._running.values(), *self._lost.values()]

    @property
    def planned(self) -> int:
        """Trials that are known to be needed so far."""
        return self._plan.trials + sum(len(each) for each in self.rounds)

    @property
    def ended(self) -> int:
        """Trials with a final status."""
        return sum(row["status"] in FINAL for row in self.records.values())

    def overdue(self, now: float) -> bool:
        """Whether running trials were asked to stop and did not in time."""
        return self._deadline is not None and now > self._deadline

    def next(self) -> Start | Idle:
        """The next trial; it counts as running from now on unless it is on record."""
        if self._deadline is not None:
            return Idle.WAIT if self._running else Idle.FINISHED
        if self._lost:
            return self._start(self._lost.pop(next(iter(self._lost))))
        if len(self._numbers) < self._plan.trials:
            return self._explore()
        while not self._queue:
            if self._running:
                return Idle.WAIT
            specs = next_round(self._plan, self.records.values(), len(self.rounds))
            if not specs:
                return Idle.FINISHED
            self.rounds.append(specs)
            self._queue.extend(spec for spec in specs if self._final(spec) is None)
        return self._start(self._queue.popleft())

    def end(self, trial_id: str, row: TrialRow | None) -> None:
        """A trial has ended with the record ``row``, already written; None if that failed: it runs again on resume."""
        self._running.pop(trial_id, None)
        self._lost.pop(trial_id, None)
        if row is not None:
            self.records[trial_id] = row
            self._tell(trial_id, row)

    def record_loss(self, trial_id: str) -> int:
        """Record that a running trial's process was lost: it is next, unless it ends. Returns how often it was lost."""
        self._lost[trial_id] = self._running.pop(trial_id)
        self._losses[trial_id] += 1
        return self._losses[trial_id]

    def stop(self, deadline: float, problem: Exception | None = None) -> None:
        """The user, or a problem, stops the study; running trials have until ``deadline`` to end their epoch."""
        self.problem = self.problem or problem
        self.interrupted = self.interrupted or problem is None
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _recorded_candidates(self) -> dict[int, Candidate]:
        rows = {number: self.records.get(self._plan.explore_id(number)) for number in range(self._plan.trials)}
        return {number: Candidate.of(config_of(row)) for number, row in rows.items() if row is not None}

    def _explore(self) -> Start | Idle:
        candidate = self._proposals.next()
        if candidate is None:
            return Idle.WAIT
        # A candidate that is drawn again gets another seed: the number of earlier draws is added.
        seed = explore_seed(candidate, self._seed) + self._draws[candidate]
        self._draws[candidate] += 1
        number = len(self._numbers)
        spec = self._plan.explore_spec(number, candidate, seed)
        self._numbers[spec.trial_id] = number
        return self._start(spec, candidate)

    def _start(self, spec: TrialSpec, candidate: Candidate | None = None) -> Start:
        record = self._final(spec)
        if record is None:
            self._running[spec.trial_id] = spec
        else:
            self._tell(spec.trial_id, record)
        return Start(spec, candidate, record)

    def _final(self, spec: TrialSpec) -> TrialRow | None:
        row = self.records.get(spec.trial_id)
        return row if row is not None and row["status"] in FINAL else None

    def _tell(self, trial_id: str, row: TrialRow) -> None:
        number = self._numbers.get(trial_id)
        if number is not None and row["status"] != "interrupted":
            self._proposals.tell(number, row["status"], row.get("val_linear"))
