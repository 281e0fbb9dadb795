"""What the searcher hands to Ray Tune while the next trial depends on one that runs, and when that one has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from pmae.config import preset
from tests.tune.conftest import optuna_states
from tests.tune.search.test_space import space_for
from tune.search.sampler import Proposals
from tune.search.searcher import StudySearch
from tune.search.space import Setting
from tune.trial.spec import WAIT, TrialSpec


@pytest.fixture
def search(tmp_path: Path) -> StudySearch:
    config = preset("quick", "digits", "pmae").resolve(8, 1)

    def make_spec(number: int, setting: Setting, seed: int) -> TrialSpec:
        return TrialSpec(f"explore-{number:04d}", "explore", seed, setting.label, config)

    return StudySearch(
        Proposals(space_for(32), {}, "random", seed=0, lag=1), planned=2, records={}, make_spec=make_spec,
        follow_up=list, record=lambda spec, text: json.loads(text or "{}"), database=tmp_path / "optuna.db",
        name="study", seed=0, wait_file=tmp_path / ".wait",
    )  # fmt: skip


def end(search: StudySearch, ray_id: str) -> None:
    search.on_trial_complete(ray_id, {"row": json.dumps({"status": "done", "val_linear": 0.5})})


def test_a_free_process_is_kept_until_there_is_something_to_do(search, tmp_path):
    assert search.suggest("a")["trial"]["trial_id"] == "explore-0000"
    assert search.suggest("b")["trial"]["trial_id"].startswith(WAIT) and search.wait_file.exists()
    end(search, "a")
    assert not search.wait_file.exists()
    assert search.suggest("c")["trial"]["trial_id"] == "explore-0001"
    end(search, "c")
    assert search.suggest("d") == Searcher.FINISHED
    assert optuna_states(tmp_path) == {"COMPLETE": 2}


def test_no_process_is_kept_once_a_trial_has_found_no_place(search):
    search.suggest("a")
    search.suggest("b")
    search.stop_waiting()
    assert not search.wait_file.exists()
    assert search.suggest("c") is None and not search.wait_file.exists()
    end(search, "a")
    assert search.suggest("c")["trial"]["trial_id"] == "explore-0001"
