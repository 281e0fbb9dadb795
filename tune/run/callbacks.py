"""Where Ray Tune calls the running study back. Ray pickles both; neither has anything to bring back from a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

if TYPE_CHECKING:
    from tune.run.driver import StudyRun


class WhenOverdue(Stopper):
    """Ends all trials that were asked to stop and did not in time."""

    def __init__(self, run: StudyRun) -> None:
        self.run = run

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Asked after every step of Tune."""
        return self.run.overdue()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class InOrder(FIFOScheduler):
    """First come, first served, and each trial keeps the process that is being started for it.

    Tune's own would give that trial the next process that becomes free and end the one being started; with trials
    shorter than a start all would then run one after another.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """No trial in particular: Tune then goes through those that have no process yet."""
        return None


class Watch(Callback):
    """Shows the study after every step of Tune."""

    def __init__(self, run: StudyRun) -> None:
        self.run = run

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called a few times a second."""
        self.run.look()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Trial, **info: Any) -> None:
        """Called when a trial has its process."""
        self.run.placed(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Trial, **info: Any) -> None:
        """Called when a trial whose process was lost is to run again."""
        self.run.lost(trial.trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}
