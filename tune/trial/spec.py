"""What is sent to where a trial runs: the trial (:class:`TrialSpec`) and what all trials share (:class:`TrialJob`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmae.config import PretrainConfig

WAIT = "wait-"  # ids of trials that keep a process until there is something to train in it
FOLDS_BELOW = 2_000  # test images below which accuracies of the confirm phase are out-of-fold ones

# Tune would copy these into the runtime environment of every trial, which Ray's runtime_env_agent writes to its log.
# Workers of a private Ray inherit them from the driver; on a cluster trials ask tune.trial.remote_folder for them.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class TrialSpec:
    """What is to be trained: a resolved configuration and a seed.

    ``control`` is ``untrained`` (the encoder as initialized) or ``pixels`` (no encoder): scored without training.
    """

    trial_id: str
    phase: str
    seed: int
    label: str
    config: PretrainConfig
    samples: bool = False
    control: str | None = None

    @property
    def name(self) -> str:
        """Readable name, for example ``pmae r=0.20 p=4 seed=1``."""
        return f"{self.label} seed={self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialSpec:
        """What :meth:`to_dict` gave."""
        return cls(**{**values, "config": PretrainConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a study share.

    Attributes:
        folder: The study's folder (absolute, seen by every node unless there is an ``exchange``).
        dataset: Name of the images in the record.
        skip_unreadable: As in ``load_images``.
        threads: CPU threads of a one-worker trial.
        workers: Processes that train one trial; more than one go through Ray Train.
        least_workers: With how few of them a trial goes on while nodes are missing; None is all.
        gpus: GPUs of a trial.
        timeout: Seconds after which the trial's process is ended; None never.
        metrics: ``module:function`` that measures more, called with a ``Measured``; None measures nothing more.
        code_version, versions: Written into every record.
        gauges: Whether the dashboard is told each epoch.
        exchange: Name of the actor through which trials reach the folder; None where they see it.
        checkpoint_uri: Object store for the checkpoints of trials of several workers; None is the folder.
    """

    folder: str
    dataset: str
    skip_unreadable: bool = False
    threads: int = 1
    workers: int = 1
    least_workers: int | None = None
    gpus: float = 0.0
    timeout: float | None = None
    metrics: str | None = None
    code_version: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    gauges: bool = False
    exchange: str | None = None
    checkpoint_uri: str | None = None

    @property
    def stop_file(self) -> Path:
        """Exists while the study is being interrupted."""
        return Path(self.folder) / ".stop"

    @property
    def wait_file(self) -> Path:
        """Exists while free processes have nothing to do until a running trial has ended."""
        return Path(self.folder) / ".wait"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialJob:
        """What :meth:`to_dict` gave."""
        return cls(**values)

    def checkpoints(self, trial_id: str) -> Path:
        """Folder of a trial's checkpoints: the same after a retry and after ``--resume``."""
        return Path(self.folder) / "checkpoints" / trial_id
