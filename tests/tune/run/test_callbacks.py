"""Tune's cache of idle processes holds as many as run at a time; without that private API studies still run."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.utils.object_cache import _ObjectCache

from tune.run.callbacks import KeepProcesses


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
