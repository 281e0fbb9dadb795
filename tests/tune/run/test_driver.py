"""Tune's private parts that the driver uses, without which studies still run; trials whose process is lost."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.utils.object_cache import _ObjectCache

from pmae.config import preset
from tune import StudyOptions
from tune.planning.plan import plan_study
from tune.run.driver import RETRIES, KeepProcesses, StudyDriver
from tune.run.ray_session import RayLostError
from tune.search.state import Idle, Start, StudyState
from tune.storage.clock import CLOCK
from tune.trial.spec import TrialSpec


@pytest.fixture
def driver(tmp_path, monkeypatch) -> StudyDriver:
    """A driver without Ray and table; ``recorded`` has the status of each row."""
    monkeypatch.setattr("tune.run.driver.LOST_AFTER", 0.01)
    monkeypatch.setattr("tune.run.driver.blank_result", lambda spec, job, status, *rest: {"status": status})
    made: Any = object.__new__(StudyDriver)
    made.state, made.problems, made.clock = StudyState(plan_study(StudyOptions()), (), 2), queue.SimpleQueue(), CLOCK
    made.job, made.processes, made.recorded = SimpleNamespace(stop_file=tmp_path / "stop"), KeepProcesses(2), []
    made.display = SimpleNamespace(warn=lambda text: None)

    def record(spec, result):
        made.recorded.append(result["status"])
        made.state.end(spec.trial_id, result)
        return result

    made._record = record
    return made


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
def test_a_trial_that_ends_because_ray_was_lost_is_not_on_record_as_failed(problem, driver):
    spec = driver.state.next().spec
    for _ in range(RETRIES):
        driver._end(spec, None)
        assert not driver.recorded and driver.state.next() == Start(spec)
    if problem is not None:
        driver.problems.put(problem)  # the thread that watches Ray may be later than Tune
    driver._end(spec, None)
    assert driver.state.problem is problem
    if problem is None:
        assert driver.recorded == ["failed"] and driver.state.running == []
    else:
        assert driver.recorded == [] and driver.state.running == [spec]  # to be recorded as interrupted


def test_a_lost_trial_comes_before_others_and_waits_when_the_study_stops(driver):
    first, second = (driver.state.next().spec for _ in range(2))
    driver._end(second, None)
    assert driver.state.next() == Start(second)
    driver._end(first, None)
    driver.state.stop(0.0)
    assert driver.state.next() is Idle.WAIT and driver.state.running == [second, first]
    driver.state.end(second.trial_id, None)
    assert driver.state.next() is Idle.FINISHED and driver.state.running == [first]
