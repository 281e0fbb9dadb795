"""Input of a trial: its own (:class:`TrialSpec`) and what all trials of a study share (:class:`TrialJob`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmae.config import PretrainConfig
from studies.storage.rows import Phase

FOLDS_BELOW = 2_000  # test images below which the confirm phase reports cross-validated accuracies
FOLD_REPEATS = 3  # cross-validations that are averaged then: they remove a third of the variance on digits

# Tune would copy these into the runtime environment of every trial, which Ray's runtime_env_agent writes to its log.
# Workers of a private Ray inherit them from the driver; on a cluster trials ask tune.trial.remote_folder for them.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class TrialSpec:
    """What to train: a resolved configuration and a seed.

    ``control`` is ``untrained`` (the encoder as initialized) or ``pixels`` (no encoder): scored without training.
    ``samples`` writes images for the report.
    """

    trial_id: str
    phase: Phase
    seed: int
    label: str
    config: PretrainConfig
    samples: bool = False
    control: str | None = None

    @property
    def name(self) -> str:
        """Name for people, for example ``pmae r=0.20 p=4 seed=1``."""
        return f"{self.label} seed={self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialSpec:
        """Inverse of :meth:`to_dict`."""
        return cls(**{**values, "config": PretrainConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a study share.

    Attributes:
        folder: The study's folder (absolute, seen by every node unless there is an ``exchange``).
        dataset: Name of the images in the record.
        skip_unreadable: As in ``load_images``.
        threads: CPU threads of a one-worker trial.
        workers: Processes that train one trial; more than one use Ray Train.
        least_workers: How few of them a trial may run with while nodes are missing; None is all.
        gpus: GPUs of a trial.
        timeout: Seconds after which the trial's process is killed; None is never.
        metrics: ``module:function`` of further measures, called with a ``Measured``; None is none.
        code_version, versions: Written into every record.
        gauges: Whether each epoch is reported to the dashboard.
        exchange: Name of the actor that gives trials access to the folder; None where they see it themselves.
        checkpoint_uri: Object store for the checkpoints of trials with several workers; None is the folder.
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
        """Exists while the study is stopping."""
        return Path(self.folder) / ".stop"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialJob:
        """Inverse of :meth:`to_dict`."""
        return cls(**values)

    def checkpoints(self, trial_id: str) -> Path:
        """Folder of a trial's checkpoints: the same after a retry and after ``--resume``."""
        return Path(self.folder) / "checkpoints" / trial_id
