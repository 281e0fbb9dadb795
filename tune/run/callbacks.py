"""Ray Tune's stopper, scheduler and callback. Ray pickles them and never restores them, so they keep no state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from tune.trial.spec import TrialSpec


class StopWhen(Stopper):
    """Stops all trials at once when ``condition`` holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Called after every step of Tune."""
        return self._condition()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class KeepProcesses(FIFOScheduler):
    """First in, first out, and no process is stopped before the study ends.

    Starting a process takes longer than many a trial. Tune has a cache of idle processes (``reuse_actors``), but

    * it holds one at most while no trial is pending, that is whenever the next trial depends on a running one:
      its size is raised to ``processes``;
    * it gives a trial whose process is starting the next idle process and kills the one that is starting, so short
      trials would run one after another: ``choose_trial_to_run`` names no trial, and Tune starts those that have no
      process yet.

    An idle process holds its CPUs, and a pending trial takes it at once, also one that lost its own.
    """

    def __init__(self, processes: int) -> None:
        super().__init__()
        self._processes = processes
        self._drop_idle = False

    def drop_idle(self) -> None:
        """Stop idle processes in the next step: the node that a trial was lost with may have had more of them."""
        self._drop_idle = True

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Called in every step of Tune before it starts trials."""
        # Private API; Tune passes a wrapper that warns of it. Without the cache processes are started again.
        controller = getattr(tune_controller, "_tune_controller", tune_controller)
        trials, cache = controller.get_trials(), getattr(controller, "_actor_cache", None)
        if cache is not None and trials and self._processes:
            cache.increase_max(trials[0].placement_group_factory, by=self._processes)
            name_tasks(controller)
            self._processes = 0
        if cache is not None and self._drop_idle:
            controller._cleanup_cached_actors(force_all=True)
            self._drop_idle = False
        return None


def name_tasks(controller: Any) -> None:
    """Let Ray's dashboard and ``ps`` show the name of the trial for each of its tasks, one per report.

    Tune's private method submits them, all as ``Trial.train``; without it they keep that name.
    """
    schedule: Any = getattr(controller, "_schedule_trial_train", None)

    def schedule_named(trial: Trial) -> None:
        actor, _ = controller._actor_manager._live_actors_to_ray_actors_resources[controller._trial_to_actor[trial]]
        actor.train = actor.train.options(name=TrialSpec.from_dict(trial.config["trial"]).name)
        try:
            schedule(trial)
        finally:
            del actor.train  # it hid the method

    if schedule is not None:
        controller._schedule_trial_train = schedule_named


class Watch(Callback):
    """Calls ``on_step`` a few times a second and ``on_lost`` with Ray's id of a trial whose process was lost."""

    def __init__(self, on_step: Callable[[], None], on_lost: Callable[[str], None]) -> None:
        self._on_step, self._on_lost = on_step, on_lost

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called after every step of Tune."""
        self._on_step()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Trial, **info: Any) -> None:
        """Called before a trial whose process was lost runs again."""
        self._on_lost(trial.trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}
