"""Access to the study's folder for trials on a cluster without a shared folder.

An actor on the driver's machine reads and writes the study's folder. A trial works in a folder on its own node, which
is synchronized with it. Nodes need no access to the object store that the study is copied to.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pmae.files import replace_atomically
from tune.trial.image_strips import FOLDER as SAMPLES
from tune.trial.spec import CREDENTIALS, TrialJob

SYNC_EVERY = 0.5  # seconds
LOCAL = "overdue.txt"  # written by a process as it is killed: stays on its node


class StudyFolder:
    """Actor that exposes the study's folder to nodes that do not see it."""

    def __init__(self, job: TrialJob, credentials: dict[str, str] | None = None) -> None:
        self.job = job
        self.folder = Path(job.folder)
        self._credentials = credentials or {}

    def credentials(self) -> dict[str, str]:
        """The driver's credentials for the object store, as environment variables."""
        return self._credentials

    def stopping(self) -> bool:
        return self.job.stop_file.exists()

    def checkpoints(self, trial_id: str) -> dict[str, bytes]:
        folder = self.job.checkpoints(trial_id)
        return {p.name: p.read_bytes() for p in sorted(folder.glob("epoch-*.ckpt"))}

    def put(self, trial_id: str, changed: dict[str, bytes], present: list[str]) -> None:
        """Write ``changed`` files of a trial and delete its checkpoints that are not in ``present``."""
        allowed = (self.job.checkpoints(trial_id), self.folder / SAMPLES)
        for name, content in changed.items():
            path = self.folder / name
            if path.parent not in allowed:
                raise ValueError(f"{name!r} is not a file of trial {trial_id}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_atomically(path) as temporary:
                temporary.write_bytes(content)
        for old in self.job.checkpoints(trial_id).glob("epoch-*.ckpt"):
            if old.relative_to(self.folder).as_posix() not in present:
                old.unlink(missing_ok=True)


@contextmanager
def exchange(job: TrialJob) -> Iterator[TrialJob]:
    """Start the actor on this node; yields the job that names it."""
    name = f"pmae-{secrets.token_hex(8)}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(StudyFolder)
    # Two threads, so that the stop signal does not wait for a checkpoint. It keeps only its arguments: it may restart.
    restarts = {"max_restarts": -1, "max_task_retries": -1}
    actor = actor.options(name=name, num_cpus=0, max_concurrency=2, scheduling_strategy=here, **restarts)
    # As an argument: a runtime environment would be written to the log of Ray's runtime_env_agent.
    actor = actor.remote(job, {name: os.environ[name] for name in CREDENTIALS if name in os.environ})
    try:
        ray.get(actor.stopping.remote())
        yield dataclasses.replace(job, exchange=name)
    finally:
        ray.kill(actor)


def fetch_credentials(job: TrialJob) -> dict[str, str]:
    """The driver's credentials for the object store; empty where the environment is the driver's own."""
    return {} if job.exchange is None else _answer(ray.get_actor(job.exchange).credentials.remote())


@contextmanager
def node_folder(job: TrialJob, trial_id: str) -> Iterator[tuple[TrialJob, Callable[[bool], None]]]:
    """The job with a folder on this node, and what exchanges files and the stop signal with the study's folder."""
    assert job.exchange is not None
    study: Any = ray.get_actor(job.exchange)
    folder = Path(tempfile.gettempdir()) / f"{job.exchange}-{trial_id}"
    here = dataclasses.replace(job, folder=str(folder))
    checkpoints = here.checkpoints(trial_id)
    checkpoints.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in checkpoints.iterdir():
        if old.name != LOCAL:
            old.unlink()
    for name, content in _answer(study.checkpoints.remote(trial_id)).items():
        (checkpoints / name).write_bytes(content)

    def written() -> dict[str, int]:
        found = [*checkpoints.glob("epoch-*.ckpt"), *(folder / SAMPLES).glob("*.npz")]
        return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}

    sent, synced_at = written(), 0.0

    def sync(now: bool) -> None:
        nonlocal sent, synced_at
        if not now and time.monotonic() - synced_at < SYNC_EVERY:
            return
        files = written()
        changed = {name: (folder / name).read_bytes() for name in files if sent.get(name) != files[name]}
        if changed:
            _answer(study.put.remote(trial_id, changed, list(files)))
            sent = files
        if _answer(study.stopping.remote()):
            here.stop_file.touch()
        else:
            here.stop_file.unlink(missing_ok=True)
        synced_at = time.monotonic()

    sync(True)
    yield here, sync
    shutil.rmtree(folder, ignore_errors=True)  # not when the trial raises, since it may be retried here


def _answer(reference: Any) -> Any:
    """The actor's answer; raises OSError if the driver's disk is full."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, OSError) else error) from None
