"""Adapter between the study's state and Ray Tune, and the log of the exploration in ``optuna.db``.

The state decides which trial comes next. ``optuna.db`` is a log for optuna-dashboard, not the study that proposals come
from (``tune.search.sampler``): it is rebuilt from the records when a study resumes, so that a killed driver leaves no
Optuna trial without a final state.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from studies.storage.rows import TrialRow
from tune.search.sampler import optuna_state
from tune.search.space import Candidate, Space
from tune.search.state import Idle, Start, StudyState
from tune.trial.spec import TrialSpec

OBJECTIVE = "val_linear"


class StudySearch(OptunaSearch):
    """Passes the trials of a ``StudyState`` to Ray Tune.

    Args:
        state: Decides what comes next.
        on_end: Called when a trial has ended with its result as JSON (None: its process was lost too often); ends it
            in the state and returns its row, None where it could not be recorded. Ray ignores what it raises.
        space: The search space.
        database: Path of ``optuna.db``; an existing file is replaced.
        name: Name of the study in it.
    """

    def __init__(
        self,
        state: StudyState,
        on_end: Callable[[TrialSpec, str | None], TrialRow | None],
        space: Space,
        database: Path,
        name: str,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        database.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
        super().__init__(space=space.draw, metric=OBJECTIVE, mode="max", study_name=name, storage=storage)
        self._state, self._on_end, self._parameters = state, on_end, space.parameters
        self._specs: dict[str, TrialSpec] = {}  # by Ray's trial id

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial as ``{"trial": spec}``, None while running trials decide it, FINISHED at the end."""
        while isinstance(step := self._state.next(), Start):
            if step.candidate is not None:
                self._log_start(trial_id, step.spec, step.candidate)
            if step.record is None:
                self._specs[trial_id] = step.spec
                return {"trial": step.spec.to_dict()}
            self._log_end(trial_id, step.record)
        return Searcher.FINISHED if step is Idle.FINISHED else None

    def spec(self, trial_id: str) -> TrialSpec | None:
        """The running trial with Ray's id ``trial_id``."""
        return self._specs.get(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Log validation accuracies of unfinished trials."""
        value, epoch = result.get(OBJECTIVE), result.get("epoch")
        if trial_id in self._ot_trials and epoch is not None and value is not None and math.isfinite(value):
            self._ot_trials[trial_id].report(value, int(epoch))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record a trial that ended; in Optuna an interrupted one stays open until the study resumes."""
        spec = self._specs.pop(trial_id, None)
        if spec is not None:
            row = self._on_end(spec, (result or {}).get("row"))
            if row is not None and row["status"] != "interrupted":
                self._log_end(trial_id, row)

    def _log_start(self, ray_id: str, spec: TrialSpec, candidate: Candidate) -> None:
        parameters = {"method": candidate.method, **self._parameters(candidate)}
        self._optuna.enqueue_trial(parameters, user_attrs={"trial_id": spec.trial_id, "ray_trial_id": ray_id})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().suggest(ray_id)

    def _log_end(self, ray_id: str, row: TrialRow) -> None:
        trial = self._ot_trials.pop(ray_id, None)
        if trial is None:  # a trial of the confirm phase
            return
        state, value = optuna_state(row["status"]), row.get("val_linear")
        if state == TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            state = TrialState.FAIL
        self._optuna.tell(trial, value if state == TrialState.COMPLETE else None, state=state)

    @property
    def _optuna(self) -> optuna.Study:
        study: Any = self._ot_study  # created by the base class
        return study

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a study resumes from its table."""

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles searchers with its snapshots, which a study never restores.
        return {}
