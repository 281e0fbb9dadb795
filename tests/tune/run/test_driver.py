"""Tune's private parts that the driver uses, without which studies still run; what is recorded when Ray is lost."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest
from ray.tune.utils.object_cache import _ObjectCache

from pmae.config import preset
from tune import StudyOptions
from tune.planning.plan import plan_study
from tune.run.driver import KeepProcesses, StudyDriver
from tune.run.ray_session import RayLostError
from tune.search.state import StudyState
from tune.storage.clock import CLOCK
from tune.trial.spec import TrialSpec


def controller(cache: _ObjectCache | None) -> SimpleNamespace:
    dropped: list[str] = []
    made = SimpleNamespace(
        get_trials=lambda: [SimpleNamespace(placement_group_factory="cpu")],
        _cleanup_cached_actors=lambda force_all: dropped.extend(cache.flush_cached_objects(force_all)),
        dropped=dropped,
    )
    if cache is not None:
        made._actor_cache = cache
    return made


def test_as_many_idle_processes_are_kept_as_run_at_a_time():
    cache = _ObjectCache(may_keep_one=True)
    scheduler, tune = KeepProcesses(2), controller(cache)
    for _ in range(3):  # steps of Tune
        assert scheduler.choose_trial_to_run(tune) is None
    assert [cache.cache_object("cpu", process) for process in "abc"] == [True, True, False]
    assert not list(cache.flush_cached_objects())
    scheduler.drop_idle()
    scheduler.choose_trial_to_run(tune)
    assert tune.dropped == ["a", "b"]


def test_without_the_cache_nothing_happens():
    scheduler = KeepProcesses(2)
    scheduler.drop_idle()
    assert scheduler.choose_trial_to_run(controller(None)) is None


def test_the_tasks_of_a_trial_have_its_name_and_only_while_they_are_submitted():
    class Actor:
        def train(self): ...

        train.options = lambda name: name

    class Trial:
        def __init__(self, seed):
            spec = TrialSpec("explore-0000", "explore", seed, "pmae r=0.20 p=4", preset("quick"))
            self.config = {"trial": spec.to_dict()}

    trials = [Trial(1), Trial(2)]
    actor, submitted = Actor(), []
    tune = controller(_ObjectCache(may_keep_one=True))
    tune._trial_to_actor = dict.fromkeys(trials, "tracked")
    tune._actor_manager = SimpleNamespace(_live_actors_to_ray_actors_resources={"tracked": (actor, None)})
    tune._schedule_trial_train = lambda trial: submitted.append(actor.train)
    KeepProcesses(2).choose_trial_to_run(tune)
    for trial in trials:
        tune._schedule_trial_train(trial)
    assert submitted == ["pmae r=0.20 p=4 seed=1", "pmae r=0.20 p=4 seed=2"]
    assert "train" not in vars(actor)


@pytest.mark.parametrize("problem", [RayLostError("Ray's process raylet was lost"), None])
def test_a_trial_that_ends_because_ray_was_lost_is_not_on_record_as_failed(problem, tmp_path, monkeypatch):
    monkeypatch.setattr("tune.run.driver.LOST_AFTER", 0.01)
    plan = plan_study(StudyOptions())
    driver = object.__new__(StudyDriver)
    driver.state, driver.problems, driver.clock = StudyState(plan, (), 1), queue.SimpleQueue(), CLOCK
    driver.job = SimpleNamespace(stop_file=tmp_path / "stop")
    recorded = []
    monkeypatch.setattr("tune.run.driver.blank_result", lambda *given: {"status": given[2], "history": []})
    driver._record = lambda spec, result: recorded.append(result["status"]) or result
    spec = driver.state.next().spec
    if problem is not None:
        driver.problems.put(problem)  # the thread that watches Ray may be later than Tune
    driver._end(spec, None)
    assert recorded == ([] if problem else ["failed"])
    assert driver.state.problem is problem and bool(driver.state.running) == (problem is None)
