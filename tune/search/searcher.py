"""Adapter between the study's state and Ray Tune, and the log of the exploration in ``optuna.db``.

``optuna.db`` is a log for optuna-dashboard, not the study that proposals come from (``tune.search.sampler``): it is
rebuilt from the records when a study resumes, so that a killed driver leaves no Optuna trial without a final state.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState, create_trial
from ray.tune.search import Searcher

from studies.storage.rows import TrialRow
from tune.search.sampler import optuna_result
from tune.search.space import Candidate, Space
from tune.search.state import Idle, Start, StudyState
from tune.trial.spec import TrialSpec

OBJECTIVE = "val_linear"
SHOWN_OBJECTIVE = "validation accuracy (linear probe)"  # in optuna-dashboard
OnEnd = Callable[[TrialSpec, str | None], TrialRow | None]


class StudySearch(Searcher):
    """Passes the trials of a ``StudyState`` to Ray Tune, and logs them in ``database``, which is replaced, as ``name``.

    ``on_end`` gets the result of a trial as JSON (None: its process was lost), ends it in the state and returns its
    row, None where it runs again or could not be recorded; Ray ignores what it raises.
    """

    def __init__(self, state: StudyState, on_end: OnEnd, space: Space, database: Path, name: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        database.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}", {"creator": lambda: _connect(database)})
        super().__init__(metric=OBJECTIVE, mode="max")
        self._optuna = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        self._state, self._on_end, self._space = state, on_end, space
        self._specs: dict[str, TrialSpec] = {}  # by Ray's trial id
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental in Optuna
            self._optuna.set_metric_names([SHOWN_OBJECTIVE])
        self._numbers: dict[str, int] = {}  # of running trials in Optuna, by the study's trial id
        self._logged = 0

    def suggest(self, trial_id: str) -> Any:
        """The next trial as ``{"trial": spec}``, None while running trials decide it, FINISHED at the end."""
        while isinstance(step := self._state.next(), Start):
            if step.candidate is not None:
                self._log(trial_id, step.spec, step.candidate, step.record)
            if step.record is None:
                self._specs[trial_id] = step.spec
                return {"trial": step.spec.to_dict()}
        return Searcher.FINISHED if step is Idle.FINISHED else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record a trial that ended; in Optuna an interrupted one stays open until the study resumes."""
        spec = self._specs.pop(trial_id, None)
        if spec is not None:
            row = self._on_end(spec, (result or {}).get("row"))
            if row is not None and row["status"] != "interrupted" and spec.trial_id in self._numbers:
                state, value = optuna_result(row["status"], row.get("val_linear"))
                self._optuna.tell(self._numbers.pop(spec.trial_id), value, state=state)

    def _log(self, ray_id: str, spec: TrialSpec, candidate: Candidate, row: TrialRow | None) -> None:
        """Log an explored trial: as it ended where it is on record, otherwise as running."""
        drawn = FixedTrial({"method": candidate.method, **self._space.parameters(candidate)})
        drawn.suggest_categorical("method", self._space.methods)
        self._space.suggest(drawn, candidate.method, with_default=True)
        ended = None if row is None else optuna_result(row["status"], row.get("val_linear"))
        state, value = ended or (TrialState.RUNNING, None)
        names = {"candidate": spec.label, "seed": spec.seed, "trial_id": spec.trial_id, "ray_trial_id": ray_id}
        # In one transaction; to ask Optuna for the trial takes ten, which adds up when a long study resumes.
        self._optuna.add_trial(
            create_trial(
                state=state, value=value, params=drawn.params, distributions=drawn.distributions, user_attrs=names
            )
        )
        if row is None:
            self._numbers[spec.trial_id] = self._logged
        self._logged += 1

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a study resumes from its table."""

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles searchers with its snapshots, which a study never restores.
        return {}


def _connect(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, check_same_thread=False)
    connection.execute("PRAGMA synchronous=OFF")  # to wait for the disk, ten times a trial, takes longer than a trial
    return connection
