"""Run a planned study on Ray Tune: start its trials, write each record as it arrives, stop in good order.

What comes next and what is known is in ``tune.search.state``; here are Ray, files, signals and the clock.
"""

from __future__ import annotations

import errno
import json
import queue
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from studies.errors import StudyError
from studies.records import StudyWriter
from studies.storage.rows import TrialRow
from tune.planning.describe import confirmations
from tune.planning.placement import Placement
from tune.planning.plan import StudyPlan
from tune.run.display import Display
from tune.run.ray_session import OUTER_RESOURCES, RayLostError, keep_credentials_out_of_logs
from tune.search.sampler import FINAL
from tune.search.state import StudyState
from tune.storage.clock import CLOCK, Clock
from tune.trial.result import TrialResult, blank_result, split_result
from tune.trial.spec import TrialJob, TrialSpec

if TYPE_CHECKING:
    from tune.search.searcher import StudySearch
    from tune.storage.mirror import Mirror
    from tune.trial.metrics import StudyGauges

Problems = queue.SimpleQueue[Exception]

GAUGES_EVERY = 2.0  # seconds
GRACE = 20.0  # seconds that running trials have to end their epoch after Ctrl-C
RETRIES = 2  # of a trial whose process was lost
LOST_AFTER = 3.0  # seconds in which the loss of Ray is noticed


class StudyDriver:
    """One study while it runs. The table on disk is what a study resumes from, however it ended.

    Args:
        plan: What is to be run.
        job: What its trials share.
        placement: How many run at a time.
        writer: Where records go.
        display: What the user sees.
        problems: Errors of other threads that end the study; the only way by which they reach it.
        mirror: Copies the study's folder to an object store.
        clock: For the time that running trials have to end.
    """

    def __init__(
        self,
        plan: StudyPlan,
        job: TrialJob,
        placement: Placement,
        writer: StudyWriter,
        display: Display,
        problems: Problems,
        mirror: Mirror | None = None,
        clock: Clock = CLOCK,
    ) -> None:
        self.plan, self.job, self.placement = plan, job, placement
        self.writer, self.folder, self.display = writer, writer.folder, display
        self.problems, self.mirror, self.clock = problems, mirror, clock
        self.state = StudyState(plan, writer.trials.to_pylist(), placement.lag)
        self._rounds_shown = 0
        self._gauges: StudyGauges | None = None
        self._gauges_at = 0.0

    def run(self) -> bool:
        """Run every trial that is not on record; False when the user interrupted it. Raises what ended the study."""
        if self.job.gauges:
            from tune.trial.metrics import StudyGauges

            self._gauges = StudyGauges(self.plan.name)
        self._remove_leftovers()
        search = self._search()
        total = self.plan.trials + confirmations(self.plan)
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

    def _remove_leftovers(self) -> None:
        """Remove what a killed driver left: the stop signal, partial files, checkpoints of trials on record."""
        for left in (self.job.stop_file, *self.folder.glob(".*.part")):
            left.unlink(missing_ok=True)
        for checkpoints in self.job.checkpoints("any").parent.glob("*"):
            row = self.state.records.get(checkpoints.name)
            if row is not None and row["status"] in FINAL:
                shutil.rmtree(checkpoints, ignore_errors=True)

    def _search(self) -> StudySearch:
        from tune.search.searcher import StudySearch

        return StudySearch(self.state, self._end, self.plan.space, self.folder / "optuna.db", self.plan.name)

    def _tuner(self, search: StudySearch) -> Any:
        from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner

        from tune.run.callbacks import KeepProcesses, StopWhen, Watch
        from tune.trial.worker import trial_actor

        keep_credentials_out_of_logs()
        scheduler = KeepProcesses(self.placement.concurrent)

        def on_lost(ray_id: str) -> None:
            scheduler.drop_idle()
            spec = search.spec(ray_id)
            if spec is not None:
                self.display.warn(f"{spec.name}: its process was lost; it resumes from its last checkpoint in another")

        return Tuner(
            trial_actor(self.plan.name, _resources(self.placement)),
            param_space={"job": self.job.to_dict()},
            tune_config=TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=self.placement.concurrent,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=RunConfig(
                name="tune",
                storage_path=str(self.folder / "ray"),
                failure_config=FailureConfig(max_failures=RETRIES),
                stop=StopWhen(lambda: self.state.overdue(self.clock.monotonic())),
                callbacks=[Watch(self._step, on_lost)],
                verbose=0,
            ),
        )

    def _end(self, spec: TrialSpec, text: str | None) -> TrialRow | None:
        """Record a trial that ended; what goes wrong with that ends the study."""
        if text is None:
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
            self.state.drop(spec.trial_id)
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
        self.display.trial(row, spec.name, result.get("notices", ()))
        if row["status"] != "interrupted":
            shutil.rmtree(self.job.checkpoints(spec.trial_id), ignore_errors=True)
            if self.mirror is not None:
                self.mirror.forget(f"checkpoints/{spec.trial_id}")
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
            self.display.detail(f"confirming {', '.join(labels)}")
            self.display.expect(self.state.planned)
            self._rounds_shown += 1
        running = len(self.state.running)
        self.display.running(running)
        if self._gauges is not None and self.clock.monotonic() - self._gauges_at > GAUGES_EVERY:
            self._gauges_at = self.clock.monotonic()
            self._gauges.show(self.state.records, running, self.plan.options.confirm.default_ratio)

    def _take_problems(self, wait: float = 0.0) -> None:
        with suppress(queue.Empty):
            while True:
                self._fail(self.problems.get(timeout=wait) if wait else self.problems.get_nowait())
                wait = 0.0

    def _fail(self, problem: Exception) -> None:
        grace = 0.0 if isinstance(problem, RayLostError) else GRACE  # without Ray no trial ends
        self.state.fail(problem, self.clock.monotonic() + grace)
        self._signal_stop()

    def _signal_stop(self) -> None:
        with suppress(OSError):  # on a full disk trials are stopped when their time is over
            self.job.stop_file.touch()

    @contextmanager
    def _on_interrupt(self) -> Iterator[None]:
        """First Ctrl-C (or SIGTERM): stop in good order. Second: at once."""

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.state.interrupted:
            raise KeyboardInterrupt
        self.state.interrupt(self.clock.monotonic() + GRACE)
        self.display.always("stopping: running trials end their epoch; Ctrl-C again stops at once")
        self._signal_stop()


def _resources(placement: Placement) -> Any:
    if placement.workers > 1:
        return OUTER_RESOURCES
    return {"CPU": placement.threads, **({"GPU": placement.gpus} if placement.gpus else {})}


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"]["trial_id"])
