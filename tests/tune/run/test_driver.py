"""Tune's cache of idle processes holds as many as run at a time; without that private API studies still run."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.utils.object_cache import _ObjectCache

from pmae.config import preset
from tune.run.driver import KeepProcesses
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
