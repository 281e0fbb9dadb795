"""The study's searcher for Ray Tune: explores with Optuna, then confirms, in one Tune run, skipping what is on record.

``trials.arrow`` is the source: ``optuna.db`` is rebuilt from it when a study resumes, so a killed driver leaves no
Optuna trial in a state that is not final. ``tune.search.sampler`` decides which setting comes next,
``tune.search.confirm`` what is confirmed.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tune.search.sampler import Proposals
from tune.search.space import Setting, explore_seed
from tune.trial.spec import WAIT, TrialSpec

Row = Mapping[str, Any]
MakeSpec = Callable[[int, Setting, int], TrialSpec]
FINAL = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL}
OBJECTIVE = "val_linear"


class StudySearch(OptunaSearch):
    """Hands Ray Tune one trial after another: the exploration's, then whatever ``follow_up`` asks for.

    Args:
        proposals: Settings of the exploration by number.
        planned: Trials of the exploration.
        records: Rows on record by trial id; those with a final status are not run again.
        make_spec: (number, setting, seed) -> trial of the exploration.
        follow_up: Called when all trials so far have ended; returns further trials, none at the end of the study.
        record: Writes the record of a trial that ended, given as JSON (None: its process was lost), and returns it.
        database: Path of ``optuna.db``; an older one is replaced.
        name: Name of the study in it.
        seed: The study's seed.
        wait_file: Exists while there is nothing to hand out until a running trial has ended.
    """

    def __init__(
        self,
        proposals: Proposals,
        planned: int,
        records: Mapping[str, Row],
        make_spec: MakeSpec,
        follow_up: Callable[[], list[TrialSpec]],
        record: Callable[[TrialSpec, str | None], Row],
        database: Path,
        name: str,
        seed: int,
        wait_file: Path,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        database.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
        super().__init__(space=proposals.space.draw, metric=OBJECTIVE, mode="max", study_name=name, storage=storage)
        self.proposals, self.planned, self.records = proposals, planned, records
        self.make_spec, self.follow_up, self.record, self.seed = make_spec, follow_up, record, seed
        self.problem: Exception | None = None
        self.running: dict[str, TrialSpec] = {}  # by Ray's trial id
        self.stopping = False
        self.wait_file = wait_file
        self._waits, self._may_wait = 0, True
        self._next = 0
        self._numbers: dict[str, int] = {}
        self._seeds: Counter[Setting] = Counter()
        self._queue: deque[TrialSpec] = deque()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial as ``{"trial": spec}``, FINISHED at the end.

        While what comes next depends on running trials, a free process is kept by a trial that only waits
        (``tune.trial.spec.WAIT``): Tune would end it, and starting another takes longer than many a trial.
        """
        if self.stopping:
            return Searcher.FINISHED if not self.running else None
        while self._next < self.planned:
            spec = self._explore(trial_id)
            if spec is None:
                return self._wait()
            if not self._is_final(spec.trial_id):
                return self._start(trial_id, spec)
        return self._follow(trial_id)

    def _explore(self, ray_id: str) -> TrialSpec | None:
        setting = self.proposals.next()
        if setting is None:
            return None
        number, self._next = self._next, self._next + 1
        # The same setting drawn again measures anew: its seed tells how often it came before.
        spec = self.make_spec(number, setting, explore_seed(setting, self.seed) + self._seeds[setting])
        self._seeds[setting] += 1
        self._record_in_optuna(ray_id, number, setting, spec)
        row = self.records.get(spec.trial_id)
        if row is not None and self._is_final(spec.trial_id):
            self._tell(ray_id, row["status"], row[OBJECTIVE])
            self._ot_trials.pop(ray_id)
        return spec

    def _record_in_optuna(self, ray_id: str, number: int, setting: Setting, spec: TrialSpec) -> None:
        parameters = {"method": setting.method, **self.proposals.space.parameters(setting)}
        self._optuna.enqueue_trial(parameters, user_attrs={"trial_id": spec.trial_id, "ray_trial_id": ray_id})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().suggest(ray_id)
        self._numbers[ray_id] = number

    def _follow(self, ray_id: str) -> dict[str, Any] | str | None:
        while not self._queue and not self.running:
            specs = self.follow_up()
            if not specs:
                return Searcher.FINISHED
            self._queue.extend(s for s in specs if not self._is_final(s.trial_id))
        return self._start(ray_id, self._queue.popleft()) if self._queue else self._wait()

    def stop_waiting(self) -> None:
        """Keep no free processes any more: they are where a trial would run that finds no other place."""
        self._may_wait = False
        self.wait_file.unlink(missing_ok=True)

    def _wait(self) -> dict[str, Any] | None:
        if not self._may_wait:
            return None
        try:
            self.wait_file.touch()
        except OSError:  # a full disk, of which the next record will tell
            return None
        self._waits += 1
        return {"trial": {"trial_id": f"{WAIT}{self._waits:04d}"}}

    def _start(self, ray_id: str, spec: TrialSpec) -> dict[str, Any]:
        self.running[ray_id] = spec
        return {"trial": spec.to_dict()}

    def _is_final(self, trial_id: str) -> bool:
        row = self.records.get(trial_id)
        return row is not None and row["status"] in FINAL

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass validation accuracies of unfinished trials on to Optuna."""
        value, epoch = result.get(OBJECTIVE), result.get("epoch")
        if trial_id in self._ot_trials and epoch is not None and value is not None and math.isfinite(value):
            self._ot_trials[trial_id].report(value, int(epoch))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Bring Optuna's trial into its final state; an interrupted one stays open until the study goes on."""
        spec = self.running.pop(trial_id, None)
        if spec is None:
            return
        self.wait_file.unlink(missing_ok=True)
        try:
            row = self.record(spec, (result or {}).get("row"))
        except Exception as problem:  # Ray would swallow it; the driver raises it once the running trials have ended
            self.problem, self.stopping = problem, True
            return
        if trial_id in self._ot_trials and row["status"] != "interrupted":
            self._tell(trial_id, row["status"], row.get(OBJECTIVE))

    def _tell(self, ray_id: str, status: str, value: float | None) -> None:
        state = FINAL.get(status, TrialState.FAIL)
        number = self._numbers[ray_id]
        self.proposals.tell(number, state, value)
        if state == TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            state = TrialState.FAIL
        self._optuna.tell(self._ot_trials[ray_id], value if state == TrialState.COMPLETE else None, state=state)

    @property
    def _optuna(self) -> optuna.Study:
        study: Any = self._ot_study  # made by the base class
        return study

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's own table is what it goes on from."""

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles searchers with its snapshots, from which this study never goes on.
        return {}
