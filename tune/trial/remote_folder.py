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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pmae.files import replacing
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
        """Whether the study is stopping."""
        return self.job.stop_file.exists()

    def checkpoints(self, trial_id: str) -> dict[str, bytes]:
        """Checkpoints of a trial by name."""
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
            with replacing(path) as temporary:
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
    # Two threads, so that the stop signal does not wait for a checkpoint.
    actor = actor.options(name=name, num_cpus=0, max_concurrency=2, scheduling_strategy=here)
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


class NodeFolder:
    """A trial's folder on its node; :meth:`sync` exchanges files and the stop signal with the study's folder."""

    def __init__(self, job: TrialJob, trial_id: str) -> None:
        assert job.exchange is not None
        self.actor: Any = ray.get_actor(job.exchange)
        self.trial_id = trial_id
        self.folder = Path(tempfile.gettempdir()) / f"{job.exchange}-{trial_id}"
        self.job = dataclasses.replace(job, folder=str(self.folder))
        self._sent: dict[str, int] = {}
        self._at = 0.0

    def fetch(self) -> None:
        """Fetch the trial's checkpoints from its earlier run."""
        folder = self.job.checkpoints(self.trial_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in folder.iterdir():
            if old.name != LOCAL:
                old.unlink()
        for name, content in _answer(self.actor.checkpoints.remote(self.trial_id)).items():
            (folder / name).write_bytes(content)
        self._sent = {name: p.stat().st_mtime_ns for name, p in self._files().items()}
        self.sync(now=True)

    def sync(self, now: bool = False) -> None:
        """Send new files and receive the stop signal, at most every ``SYNC_EVERY`` seconds unless ``now``."""
        if not now and time.monotonic() - self._at < SYNC_EVERY:
            return
        files = self._files()
        times = {name: path.stat().st_mtime_ns for name, path in files.items()}
        changed = {name: files[name].read_bytes() for name in files if self._sent.get(name) != times[name]}
        if changed:
            _answer(self.actor.put.remote(self.trial_id, changed, list(files)))
            self._sent = times
        if _answer(self.actor.stopping.remote()):
            self.job.stop_file.touch()
        else:
            self.job.stop_file.unlink(missing_ok=True)
        self._at = time.monotonic()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> dict[str, Path]:
        found = [*self.job.checkpoints(self.trial_id).glob("epoch-*.ckpt"), *(self.folder / SAMPLES).glob("*.npz")]
        return {path.relative_to(self.folder).as_posix(): path for path in found}


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, OSError) else error) from None
