"""What Ray Tune runs in its workers: one trial, its epochs reported, a hang ended from outside Python."""

from __future__ import annotations

import faulthandler
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

from ray import tune

from tune.trial.spec import WAIT, TrialJob, TrialSpec

REPORT_EVERY = 1.0  # seconds: the driver needs no finer view, and each report costs it time
WAIT_POLL = 0.1  # seconds


class Sync(Protocol):
    """Brings the trial's folder and the study's together, at once if ``now``."""

    def __call__(self, now: bool = False) -> None: ...


def tune_trial(config: dict[str, Any]) -> None:
    """Run ``config["trial"]`` and report its record as JSON under ``row``."""
    trial_id = config["trial"]["trial_id"]
    with _study_folder(TrialJob.from_dict(config["job"]), trial_id) as (job, sync):
        if trial_id.startswith(WAIT):
            _wait(job, sync)
        else:
            _run(TrialSpec.from_dict(config["trial"]), job, sync)


def _run(spec: TrialSpec, job: TrialJob, sync: Sync) -> None:
    from tune.trial.run import blank_row, run_trial

    _name_process(spec.name)
    gauges = _gauges(spec) if job.gauges else None
    last = time.monotonic()

    def on_epoch(record: dict[str, Any]) -> None:
        nonlocal last
        _name_process(spec.name)  # Ray sets its own with every step
        if gauges is not None:
            gauges.epoch(record)
        sync()
        if time.monotonic() - last >= REPORT_EVERY:
            last = time.monotonic()
            tune.report({"epoch": record["epoch"], "train_loss": record["train_loss"]})

    with _time_limit(spec, job) as overdue:
        row = blank_row(spec, job, "failed", overdue) if overdue else run_trial(spec, job, on_epoch)
    if gauges is not None:
        gauges.end(row)
    with suppress(OSError):  # a full disk, of which the driver's own record tells
        sync(now=True)
    tune.report({"row": json.dumps(row, default=str), "val_linear": row.get("val_linear")})


@contextmanager
def _study_folder(job: TrialJob, trial_id: str) -> Iterator[tuple[TrialJob, Sync]]:
    """The job with a folder that this node sees, and what brings that and the study's own together."""
    if job.exchange is None:
        yield job, lambda now=False: None
        return
    from tune.trial.remote_folder import NodeFolder

    node = NodeFolder(job, trial_id)
    node.fetch()
    yield node.job, node.sync
    node.remove()  # not of a trial that failed, which may be tried again here


def _wait(job: TrialJob, sync: Sync) -> None:
    _name_process("pmae waiting")
    while job.wait_file.exists() and not job.stop_file.exists():
        time.sleep(WAIT_POLL)
        sync()
    tune.report({"row": ""})  # of trials without a report Tune tells the user


@contextmanager
def _time_limit(spec: TrialSpec, job: TrialJob) -> Iterator[str | None]:
    """Ends this process when the trial takes too long; gives the reason if that happened to it before.

    A thread of the C library watches, since a training that hangs may never give Python's threads a turn. Where it
    hung is left in a file, by which the retry knows that it is not to try again.
    """
    if job.timeout is None:
        yield None
        return
    folder = job.checkpoints(spec.trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "overdue.txt"
    if path.exists() and path.stat().st_size:
        yield f"ran longer than --trial-timeout {job.timeout:g} s; it was at: {_innermost(path.read_text())}"
        return
    with open(path, "w") as file:
        _watch(job.timeout, file)
        try:
            yield None
        finally:
            faulthandler.cancel_dump_traceback_later()


def _watch(seconds: float, file: TextIO) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=file)


def _innermost(trace: str) -> str:
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    ours = [line for line in lines if "/pmae/" in line or "/tune/" in line]
    return (ours or lines or ["an unknown place"])[0]


def _name_process(name: str) -> None:
    """The name that ``ps`` and Ray's dashboard show."""
    import ray._raylet as raylet

    setproctitle: Any = getattr(raylet, "setproctitle", None)
    if setproctitle is not None:
        setproctitle(f"ray::{name}")


def _gauges(spec: TrialSpec) -> Any:
    from tune.trial.metrics import TrialGauges

    return TrialGauges(spec)
