"""Run a planned study on Ray Tune: start its trials, write each record as it arrives, stop in good order."""

from __future__ import annotations

import errno
import json
import logging
import queue
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, FailureConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from studies.errors import StudyError
from studies.records import StudyWriter
from studies.storage.rows import TrialRow
from tune.planning.placement import Placement
from tune.planning.plan import StudyPlan
from tune.run import interrupts
from tune.run.display import Display
from tune.run.ray_session import OUTER_RESOURCES, RayLostError, keep_credentials_out_of_logs
from tune.search.sampler import FINAL
from tune.search.searcher import StudySearch
from tune.search.state import StudyState
from tune.storage.clock import CLOCK, Clock
from tune.trial.spec import TrialJob, TrialResult, TrialSpec, blank_result, split_result
from tune.trial.worker import trial_actor

if TYPE_CHECKING:
    from tune.storage.mirror import Mirror
    from tune.trial.metrics import Gauges

Problems = queue.SimpleQueue[Exception]

GAUGES_EVERY = 2.0  # seconds: all records are looked at
GRACE = 20.0  # seconds that running trials have to end their epoch after Ctrl-C
RETRIES = 2  # of a trial whose process was lost
LOST_AFTER = 3.0  # seconds in which the loss of Ray is noticed


class StudyDriver:
    """One study while it runs. The table on disk is what a study resumes from, however it ended."""

    def __init__(
        self,
        plan: StudyPlan,
        job: TrialJob,
        placement: Placement,
        writer: StudyWriter,
        display: Display,
        problems: Problems,  # errors of other threads that end the study; the only way by which they reach it
        mirror: Mirror | None = None,
        clock: Clock = CLOCK,
    ) -> None:
        self.plan, self.job, self.placement = plan, job, placement
        self.writer, self.folder, self.display = writer, writer.folder, display
        self.problems, self.mirror, self.clock = problems, mirror, clock
        self.processes = KeepProcesses(placement.concurrent)
        self.state = StudyState(plan, writer.trials.to_pylist(), placement.lag)
        self._rounds_shown = 0
        self._gauges: Gauges | None = None
        self._gauges_at = 0.0

    def run(self) -> bool:
        """Run every trial that is not on record; False when the user interrupted it. Raises what ended the study."""
        if self.job.gauges:
            from tune.trial.metrics import STUDY_GAUGES, Gauges

            self._gauges = Gauges(STUDY_GAUGES, study=self.plan.name)
        # What a killed driver left: the stop signal, partial files, checkpoints of trials on record.
        for left in (self.job.stop_file, *self.folder.glob(".*.part")):
            left.unlink(missing_ok=True)
        for checkpoints in self.job.checkpoints("any").parent.glob("*"):
            row = self.state.records.get(checkpoints.name)
            if row is not None and row["status"] in FINAL:
                shutil.rmtree(checkpoints, ignore_errors=True)
        search = self._search()
        total = self.plan.trials + self.plan.max_confirm_trials
        self.display.start(total, self.state.ended, self.placement.concurrent)
        try:
            with self._on_interrupt():
                self._tuner(search).fit()
        except Exception:
            self._take_problems(wait=LOST_AFTER)  # Ray's own errors may come before its loss is known
            if self.state.problem is None:
                raise
        finally:
            self.display.stop()
            self._record_running()
            self.job.stop_file.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "ray", ignore_errors=True)
        if self.state.problem is not None:
            raise self.state.problem
        return not self.state.interrupted

    def _search(self) -> StudySearch:
        return StudySearch(self.state, self._end, self.plan.space, self.folder / "optuna.db", self.plan.name)

    def _tuner(self, search: StudySearch) -> Any:
        keep_credentials_out_of_logs()
        logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it lists trials that have been started again
        placement = self.placement
        resources: dict[str, float] = {"CPU": placement.threads}
        if placement.workers > 1:
            resources = OUTER_RESOURCES
        elif placement.gpus:
            resources["GPU"] = placement.gpus
        hooks = Hooks(self._step, lambda: self.state.overdue(self.clock.monotonic()))
        return Tuner(
            trial_actor(self.plan.name, resources),
            param_space={"job": asdict(self.job)},
            tune_config=TuneConfig(
                search_alg=search,
                scheduler=self.processes,
                num_samples=-1,
                max_concurrent_trials=placement.concurrent,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=RunConfig(
                name="tune",
                storage_path=str(self.folder / "ray"),
                failure_config=FailureConfig(max_failures=0),  # the state starts lost trials again
                stop=hooks,
                callbacks=[hooks],
                verbose=0,
            ),
        )

    def _end(self, spec: TrialSpec, text: str | None) -> TrialRow | None:
        """Record a trial that ended; what goes wrong with that ends the study."""
        if text is None:
            self.processes.drop_idle()
            if self.state.record_loss(spec.trial_id) <= RETRIES:
                self.display.warn(f"{spec.name}: its process was lost; it resumes from its last checkpoint in another")
                return None
            self._take_problems(wait=LOST_AFTER)  # Tune may notice first that Ray was lost
            if isinstance(self.state.problem, RayLostError):
                return None
            error = (
                f"its process ended {RETRIES + 1} times (killed, out of memory or crashed); use --resume with fewer "
                "trials at a time (--max-concurrent)"
            )
            result = blank_result(spec, self.job, "failed", error, "process_lost")
        else:
            result = json.loads(text)
        try:
            row = self._record(spec, result)
        except Exception as problem:  # Ray ignores what is raised here
            self.state.end(spec.trial_id, None)
            self._fail(problem)
            return None
        if result.get("error_kind") == "disk_full":
            self._fail(OSError(errno.ENOSPC, row["error"]))
        return row

    def _record(self, spec: TrialSpec, result: TrialResult) -> TrialRow:
        row, epochs = split_result(result, self.plan.name)
        self.writer.add_history(epochs)
        self.writer.add_trial(row)
        self.state.end(spec.trial_id, row)
        self.display.print_trial(row, spec.name, result.get("notices", ()))
        if row["status"] != "interrupted":
            shutil.rmtree(self.job.checkpoints(spec.trial_id), ignore_errors=True)
            if self.mirror is not None:
                self.mirror.delete_remote(f"checkpoints/{spec.trial_id}")
        return row

    def _record_running(self) -> None:
        for spec in self.state.running:
            error = "the study was stopped while it ran; --resume continues it"
            try:
                self._record(spec, blank_result(spec, self.job, "interrupted", error, "stop_requested"))
            except (StudyError, OSError) as problem:  # it runs again after --resume all the same
                self._fail(problem)

    def _step(self) -> None:
        """Called after every step of Tune: collect problems of other threads, show what runs."""
        self._take_problems()
        for specs in self.state.rounds[self._rounds_shown :]:
            labels = dict.fromkeys(spec.label for spec in specs if spec.control is None)
            self.display.print_detail(f"confirming {', '.join(labels)}")
            self.display.expect(self.state.planned)
            self._rounds_shown += 1
        running = len(self.state.running)
        self.display.show_running(running)
        if self._gauges is not None and self.clock.monotonic() - self._gauges_at > GAUGES_EVERY:
            self._gauges_at = self.clock.monotonic()
            from tune.trial.metrics import study_values

            self._gauges.show(study_values(self.state.records, running, self.plan.options.confirm.default_ratio))

    def _take_problems(self, wait: float = 0.0) -> None:
        with suppress(queue.Empty):
            while True:
                self._fail(self.problems.get(timeout=wait) if wait else self.problems.get_nowait())
                wait = 0.0

    def _fail(self, problem: Exception) -> None:
        grace = 0.0 if isinstance(problem, RayLostError) else GRACE  # without Ray no trial ends
        self.state.stop(self.clock.monotonic() + grace, problem)
        self._signal_stop()

    def _signal_stop(self) -> None:
        with suppress(OSError):  # on a full disk trials are stopped when their time is over
            self.job.stop_file.touch()

    def _on_interrupt(self) -> AbstractContextManager[None]:
        return interrupts.handle_signals(self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """First Ctrl-C (or SIGTERM): stop in good order. Second: at once."""
        if self.state.interrupted:
            raise KeyboardInterrupt
        self.state.stop(self.clock.monotonic() + GRACE)
        self.display.print_always("stopping: running trials end their epoch; Ctrl-C again stops at once")
        self._signal_stop()


def _trial_name(trial: Trial) -> str:
    return str(trial.config["trial"]["trial_id"])


class Hooks(Callback, Stopper):
    """What the driver does in Tune's loop: after every step, and to stop all trials at once. Ray pickles it and never
    restores it, so it keeps no state.
    """

    def __init__(self, on_step: Callable[[], None], stop: Callable[[], bool]) -> None:
        self._on_step, self._stop = on_step, stop

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._on_step()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        return self._stop()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class KeepProcesses(FIFOScheduler):
    """First in, first out, and no process is stopped before the study ends.

    Starting a process takes longer than many a trial. Tune has a cache of idle processes (``reuse_actors``), but

    * it holds one at most while no trial is pending, that is whenever the next trial depends on a running one:
      its size is raised to ``processes``;
    * it gives a trial whose process is starting the next idle process and kills the one that is starting: short trials
      would run one after another, so ``choose_trial_to_run`` names no trial, and Tune starts those without a process.

    An idle process holds its CPUs, and a pending trial takes it at once, without checking that it is alive.
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
    """Let Ray's dashboard and ``ps`` show a trial's name for its tasks, which Tune submits as ``Trial.train``."""
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
