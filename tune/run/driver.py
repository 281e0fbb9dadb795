"""Runs a planned study: hands trials to Ray Tune, writes each record as it comes in, survives being stopped.

The search decides what is next, ``tune.trial.run`` does the work, ``studies`` judges: here they meet.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pmae.components import cached_components
from studies.records import StudyWriter
from tune.planning.describe import confirmations
from tune.planning.placement import Placement
from tune.planning.plan import StudyPlan
from tune.run.display import Display
from tune.run.ray_session import OUTER_RESOURCES, keep_credentials_out_of_logs
from tune.search.confirm import config_of
from tune.search.sampler import Proposals
from tune.search.schedule import next_round
from tune.search.space import Setting
from tune.trial.spec import TrialJob, TrialSpec

if TYPE_CHECKING:
    from tune.storage.mirror import Mirror
    from tune.trial.metrics import StudyGauges

GAUGES_EVERY = 2.0  # seconds
GRACE = 20.0  # seconds that running trials get to finish their epoch after Ctrl-C
RETRIES = 2  # of a trial whose process was lost
PATIENCE = 20.0  # seconds without a process after which a trial gets the place of one that only waits
RECORDED = ("done", "pruned", "diverged")  # what a study that goes on does not run again


class StudyRun:
    """One study while it runs; the state is the table on disk, so that any end can be gone on from.

    Args:
        plan: What is to be run.
        job: What its trials share.
        placement: How many fit.
        lag: See ``tune.search.sampler.Proposals``; the same for the whole life of a study.
        writer: Where records go.
        display: What the user sees.
        mirror: Copies the study's folder to an object store.
    """

    def __init__(
        self,
        plan: StudyPlan,
        job: TrialJob,
        placement: Placement,
        lag: int,
        writer: StudyWriter,
        display: Display,
        mirror: Mirror | None = None,
    ) -> None:
        self.plan, self.job, self.placement, self.lag = plan, job, placement, lag
        self.writer, self.display, self.mirror = writer, display, mirror
        self.rows: dict[str, dict[str, Any]] = {r["trial_id"]: r for r in writer.trials.to_pylist()}
        self.interrupted = False
        self.rounds = 0
        self._stop_at: float | None = None
        self._unplaced: dict[str, float] = {}  # trials handed to Ray: since when they have no process, inf if they do
        self._gauges: StudyGauges | None = None
        self._gauges_at = 0.0

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.writer.folder

    def run(self) -> None:
        """Run every trial that is not on record. Returns early when interrupted; raises what stopped the study."""
        from tune.search.searcher import StudySearch
        from tune.trial.metrics import StudyGauges

        self._gauges = StudyGauges(self.plan.name) if self.job.gauges else None
        self._clear_what_is_left()
        self.search = StudySearch(
            Proposals(self.plan.space, self._known(), self.plan.sampler, self.plan.options.training.seed, self.lag),
            planned=self.plan.trials,
            records=self.rows,
            make_spec=self.plan.explore_spec,
            follow_up=self._follow_up,
            record=self._record,
            database=self.folder / "optuna.db",
            name=self.plan.name,
            seed=self.plan.options.training.seed,
            wait_file=self.job.wait_file,
        )
        done = sum(r["status"] in RECORDED for r in self.rows.values())
        self.display.start(self.plan.trials + confirmations(self.plan), done, self.placement.concurrent)
        try:
            with self._on_interrupt():
                self._tune()
        finally:
            self.display.stop()
            self._record_what_is_left()
            for signal_file in (self.job.stop_file, self.job.wait_file):
                signal_file.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "ray", ignore_errors=True)
        if self.search.problem is not None:
            raise self.search.problem

    def _clear_what_is_left(self) -> None:
        """What a driver that was killed has left behind: signals, half a file, checkpoints of trials on record."""
        for left in (self.job.stop_file, self.job.wait_file, *self.folder.glob(".*.part")):
            left.unlink(missing_ok=True)
        for checkpoints in self.job.checkpoints("any").parent.glob("*"):
            if self.rows.get(checkpoints.name, {}).get("status") in RECORDED:
                shutil.rmtree(checkpoints, ignore_errors=True)

    def _known(self) -> dict[int, Setting]:
        """Settings by number: those given from the start, and those on record."""
        ran = {
            int(trial_id.removeprefix("explore-")): Setting.of(config_of(row))
            for trial_id, row in self.rows.items()
            if row["phase"] == "explore"
        }
        return {**self.plan.known_settings(), **ran}

    def _follow_up(self) -> list[TrialSpec]:
        """The next round of the confirm phase, called when all trials so far have ended."""
        specs = next_round(self.plan, self.rows.values(), self.rounds)
        if not specs:
            return []
        labels = list(dict.fromkeys(s.label for s in specs if s.control is None))
        self.display.line(f"  confirming {', '.join(labels)}")
        self.rounds += 1
        self.display.expect(len(self.rows) + len(specs))
        return specs

    def _tune(self) -> None:
        from ray import tune
        from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner

        from tune.run.callbacks import InOrder, Watch, WhenOverdue
        from tune.trial.worker import tune_trial

        keep_credentials_out_of_logs()
        tuner = Tuner(
            tune.with_resources(tune_trial, _resources(self.placement)),
            param_space={"job": self.job.to_dict()},
            tune_config=TuneConfig(
                search_alg=self.search,
                scheduler=InOrder(),
                num_samples=-1,
                max_concurrent_trials=self.placement.concurrent,
                reuse_actors=True,
                trial_name_creator=_ray_trial_name,
                trial_dirname_creator=_ray_trial_name,
            ),
            run_config=RunConfig(
                name="tune",
                storage_path=str(self.folder / "ray"),
                failure_config=FailureConfig(max_failures=RETRIES),
                stop=WhenOverdue(self),
                callbacks=[Watch(self)],
                verbose=0,
            ),
        )
        tuner.fit()

    def _record(self, spec: TrialSpec, text: str | None) -> dict[str, Any]:
        """Write the record of a trial that ended; ``text`` is its JSON, None when its process was lost too often."""
        if text is None:
            row = self._blank(
                spec, "failed",
                f"its process ended {RETRIES + 1} times (killed, out of memory or crashed); go on with --resume "
                "and fewer trials at once (--max-concurrent)",
            )  # fmt: skip
        else:
            row = json.loads(text)
        row = {"study": self.plan.name, **row}
        self._write(spec, row)
        if "the disk is full" in (row["error"] or ""):
            raise OSError(28, row["error"])
        return row

    def _write(self, spec: TrialSpec, row: dict[str, Any]) -> None:
        columns = {k: v for k, v in row.items() if k not in ("history", "notices")}
        self.writer.add_history(row.get("history") or [])
        self.writer.add_trial(columns)
        self.rows[spec.trial_id] = columns
        self.display.trial(row, spec.name)
        if row["status"] != "interrupted":
            shutil.rmtree(self.job.checkpoints(spec.trial_id), ignore_errors=True)
            if self.mirror is not None:
                self.mirror.forget(f"checkpoints/{spec.trial_id}")

    def _blank(self, spec: TrialSpec, status: str, error: str) -> dict[str, Any]:
        from tune.trial.run import blank_row

        return blank_row(spec, self.job, status, error)

    def _record_what_is_left(self) -> None:
        for spec in list(self.search.running.values()):
            row = self._blank(spec, "interrupted", "the study was stopped while it ran; --resume goes on with it")
            self._write(spec, {"study": self.plan.name, **row})
        self.search.running.clear()

    def stop(self) -> None:
        """Ask running trials to end with their epoch and start no more."""
        self.search.stopping = True
        self._stop_at = time.monotonic() + GRACE
        with suppress(OSError):  # on a full disk trials end when their time is over
            self.job.stop_file.touch()

    def look(self) -> None:
        """Called all the time while trials run: show them, and stop them when records can no longer be written."""
        if self.mirror is not None and self.search.problem is None:
            self.search.problem = self.mirror.problem
        if self.search.problem is not None and not self.stopping:
            self.stop()
        self._make_room()
        self.display.running([spec.name for spec in list(self.search.running.values())])
        if self._gauges is not None and time.monotonic() - self._gauges_at > GAUGES_EVERY:
            self._gauges_at = time.monotonic()
            self._gauges.show(self.rows, len(self.search.running), self.plan.options.confirm.default_ratio)

    def _make_room(self) -> None:
        """On a cluster that has lost a node, or is shared, a trial may find no place but that of one that waits."""
        now = time.monotonic()
        if any(now - self._unplaced.setdefault(ray_id, now) > PATIENCE for ray_id in list(self.search.running)):
            self.search.stop_waiting()

    def placed(self, ray_id: str) -> None:
        """Called when a trial has got its process."""
        self._unplaced[ray_id] = math.inf

    def lost(self, ray_id: str) -> None:
        """Called when the process of a trial was lost and another one is to go on with it."""
        self._unplaced.pop(ray_id, None)
        spec = self.search.running.get(ray_id)
        if spec is not None:
            self.display.warn(f"{spec.name}: its process was lost; it goes on from its last checkpoint in another one")

    @property
    def stopping(self) -> bool:
        """Whether running trials were asked to stop."""
        return self._stop_at is not None

    def overdue(self) -> bool:
        """Whether trials that were asked to stop have had their time."""
        return self._stop_at is not None and time.monotonic() > self._stop_at

    @contextmanager
    def _on_interrupt(self) -> Iterator[None]:
        """First Ctrl-C (or SIGTERM): stop in good order. Second: at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            self.display.always("stopping: running trials end with their epoch; Ctrl-C again stops at once")
            self.stop()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def prepare_components(plan: StudyPlan, display: Display, processes: int = 1) -> None:
    """Fit what trials will mask, once, into the cache that they read; says whether it was there.

    Many images are summed up by as many ``processes`` of a cluster.
    """
    from tune.run.cluster_fit import WORTH_SHARING, collect_moments

    if "pmae" not in plan.space.methods:
        return
    shared = processes > 1 and plan.images.images.nbytes > WORTH_SHARING
    collect = (lambda data: collect_moments(data, processes)) if shared else None
    for basis in plan.space.bases:
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*carry no variance")  # the plan says so
            components, how = cached_components(plan.images, basis, collect=collect)
        share = components.explained_variance_ratio
        display.line(
            f"  {basis} components {how} ({len(share)}, the first carries {100 * share[0]:.0f} % of the variance, "
            f"{time.perf_counter() - started:.1f} s)"
        )


def _resources(placement: Placement) -> Any:
    if placement.workers > 1:
        return OUTER_RESOURCES
    return {"CPU": placement.threads, **({"GPU": placement.gpus} if placement.gpus else {})}


def _ray_trial_name(trial: Any) -> str:
    return str(trial.config["trial"]["trial_id"])
