"""The searcher passes a state's trials to Ray Tune and logs the exploration to Optuna's database."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from ray.tune.search import Searcher

from studies.storage.rows import TrialRow
from tests.tune.conftest import optuna_states
from tune import ConfirmOptions, DataOptions, SearchOptions, StudyOptions
from tune.planning.plan import StudyPlan, plan_study
from tune.search.searcher import StudySearch
from tune.search.space import Candidate
from tune.search.state import StudyState
from tune.trial.spec import TrialJob, TrialResult, TrialSpec, blank_result


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return plan_study(
        StudyOptions(
            data=DataOptions(limit=100),
            search=SearchOptions(methods=("pmae",), trials=3, patch_sizes=(4,)),
            confirm=ConfirmOptions(confirm_seeds=2, ladder=(0.1, 0.2)),
        )
    )


def start(plan: StudyPlan, folder: Path, records: list[TrialRow]) -> StudySearch:
    state = StudyState(plan, records, lag=1)

    def on_end(spec: TrialSpec, text: str | None) -> TrialRow | None:
        if text is None:
            state.end(spec.trial_id, None)
            return None
        row: TrialRow = json.loads(text)
        state.end(spec.trial_id, row)
        records.append(row)
        return row

    return StudySearch(state, on_end, plan.space, folder / "optuna.db", "study")


def result(search: StudySearch, ray_id: str, **values: object) -> dict[str, str]:
    spec = search._specs[ray_id]
    row: TrialResult = blank_result(spec, TrialJob("/", "digits"), "done", "", "exception")
    return {"row": json.dumps({**row, "val_linear": 0.5, "test_linear": 0.5, **values})}


def test_trials_are_passed_on_and_those_on_record_are_only_logged(plan, tmp_path):
    records: list[TrialRow] = []
    search = start(plan, tmp_path, records)
    assert search.suggest("a")["trial"]["trial_id"] == "explore-0000"
    assert search.suggest("b") is None  # the next proposal depends on it
    search.on_trial_complete("a", result(search, "a"))
    assert search.suggest("b")["trial"]["trial_id"] == "explore-0001"
    search.on_trial_complete("b", result(search, "b", status="interrupted", val_linear=None))
    assert optuna_states(tmp_path) == {"COMPLETE": 1, "RUNNING": 1}

    search = start(plan, tmp_path, records)
    assert search.suggest("c")["trial"]["trial_id"] == "explore-0001"
    search.on_trial_complete("c", result(search, "c", status="diverged", val_linear=None))
    search.suggest("d")
    search.on_trial_complete("d", result(search, "d", val_linear=float("nan")))
    assert search.suggest("e")["trial"]["phase"] == "confirm"
    assert search.suggest("f")["trial"]["phase"] == "confirm"
    search.on_trial_complete("e", error=True)
    assert "e" not in search._specs
    assert optuna_states(tmp_path) == {"COMPLETE": 1, "FAIL": 2}
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    logged = [t.user_attrs for t in study.trials]
    assert study.metric_names == ["validation accuracy (linear probe)"]
    assert [a["trial_id"] for a in logged] == ["explore-0000", "explore-0001", "explore-0002"]
    assert logged[0]["candidate"] == "pmae r=0.20 p=4" and all(isinstance(a["seed"], int) for a in logged)


def test_a_ratio_that_is_rounded_out_of_its_range_is_logged(plan, tmp_path):
    search = replace(plan.options.search, ratios=(0.1, 0.4996), trials=1)
    narrow = plan_study(replace(plan.options, search=search))
    known = Candidate("pmae", narrow.space.patches["pmae"][0], 0.5, "expected", "pca")
    started = start(narrow, tmp_path, [])
    started._log("a", narrow.explore_spec(0, known, seed=1), known, None)
    assert optuna_states(tmp_path) == {"RUNNING": 1}


def test_the_study_is_finished_when_every_trial_has_ended(plan, tmp_path):
    search, ended = start(plan, tmp_path, []), 0
    while isinstance(step := search.suggest(str(ended)), dict):
        search.on_trial_complete(str(ended), result(search, str(ended)))
        ended += 1
    assert step == Searcher.FINISHED and ended == 3 + 2 * (3 + 2)  # two rungs, a refinement, two controls
