"""The function that Ray Tune runs in its workers: one trial, with its epochs reported and its time limited."""

from __future__ import annotations

import faulthandler
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from ray import tune
from ray.tune.trainable import wrap_function

from tune.trial.spec import TrialJob, TrialSpec, blank_result

REPORT_EVERY = 1.0  # seconds; each report costs the driver time


def trial_actor(study: str, resources: Any) -> type:
    """:func:`tune_trial` as a class of actors, shown by Ray's dashboard as ``Trial``, the study as their repr."""
    actor = wrap_function(tune.with_resources(tune_trial, resources), name=study)
    actor.__name__ = actor.__qualname__ = "Trial"
    return actor


def tune_trial(config: dict[str, Any]) -> None:
    """Run ``config["trial"]`` and report its record as JSON under ``row``."""
    from tune.trial.run import run_trial

    spec, job = TrialSpec.from_dict(config["trial"]), TrialJob(**config["job"])
    folder: Any = nullcontext((job, lambda now: None))
    if job.exchange is not None:
        from tune.trial.remote_folder import node_folder

        folder = node_folder(job, spec.trial_id)
    with folder as (job, sync):
        gauges = None
        if job.gauges:
            from tune.trial.metrics import trial_gauges

            gauges = trial_gauges(spec)
        last = time.monotonic()

        def on_epoch(record: dict[str, Any]) -> None:
            nonlocal last
            if gauges is not None:
                gauges.show(record)
            sync(False)
            if time.monotonic() - last >= REPORT_EVERY:
                last = time.monotonic()
                tune.report({"epoch": record["epoch"], "train_loss": record["train_loss"]})

        with _time_limit(spec, job) as overdue:
            row = blank_result(spec, job, "failed", overdue, "timeout") if overdue else run_trial(spec, job, on_epoch)
        if gauges is not None:
            gauges.show(row)
        with suppress(OSError):  # the driver's disk is full, which it notices itself
            sync(True)
        tune.report({"row": json.dumps(row, default=str), "val_linear": row.get("val_linear")})


@contextmanager
def _time_limit(spec: TrialSpec, job: TrialJob) -> Iterator[str | None]:
    """Kill this process when the trial takes too long; yields the reason if that happened to it before.

    ``faulthandler`` watches from C, since a training that hangs may hold the GIL. It writes the traceback to a file,
    from which the retry knows that it must not run the trial again.
    """
    if job.timeout is None:
        yield None
        return
    folder = job.checkpoints(spec.trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "overdue.txt"
    if path.exists() and path.stat().st_size:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip().startswith("File ")]
        ours = [line for line in lines if "/pmae/" in line or "/tune/" in line]
        innermost = (ours or lines or ["an unknown place"])[0]
        yield f"ran longer than --trial-timeout {job.timeout:g} s; it was at: {innermost}"
        return
    with open(path, "w") as file:
        faulthandler.dump_traceback_later(job.timeout, exit=True, file=file)
        try:
            yield None
        finally:
            faulthandler.cancel_dump_traceback_later()
