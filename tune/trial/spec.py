"""What goes into a trial (:class:`TrialSpec`, and :class:`TrialJob` of all trials), and what it sends back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pmae.config import PretrainConfig
from studies.formatting import count
from studies.storage.rows import EpochRow, Phase, Status, TrialRow

FOLDS_BELOW = 2_000  # test images below which the confirm phase reports cross-validated accuracies
FOLD_REPEATS = 3  # cross-validations that are averaged then: they remove a third of the variance on digits

# Tune would copy these into the runtime environment of every trial, which Ray's runtime_env_agent writes to its log.
# Workers of a private Ray inherit them from the driver; on a cluster trials ask tune.trial.remote_folder for them.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")

ErrorKind = Literal["stop_requested", "diverged", "disk_full", "out_of_memory", "timeout", "process_lost", "exception"]


def evaluation_of(config: PretrainConfig, test_images: int) -> str:
    """``folds`` where the test split is small: accuracies of a few hundred images are mostly noise; else ``split``."""
    return "folds" if config.probe.protocol == "fast" and test_images < FOLDS_BELOW else "split"


@dataclass(frozen=True)
class TrialSpec:
    """What to train: a resolved configuration and a seed."""

    trial_id: str
    phase: Phase
    seed: int
    label: str
    config: PretrainConfig
    samples: bool = False  # write images for the report
    control: str | None = None  # scored without training: untrained (as initialized) or pixels (no encoder)

    @property
    def name(self) -> str:
        """Name for people, for example ``pmae r=0.20 p=4 seed=1``."""
        return f"{self.label} seed={self.seed}"

    def candidate_columns(self) -> dict[str, Any]:
        """The columns of the record that say what is trained; a control lacks those that do not apply to it."""
        masking, model = self.config.masking, self.config.model
        pmae = masking.method == "pmae"
        columns: dict[str, Any] = {"method": self.control or masking.method}
        if self.control is None:
            columns |= {
                "strategy": masking.strategy,
                "ratio": masking.ratio,
                "mask_unit": None if pmae else masking.mask_unit,
                "basis": masking.basis if pmae else None,
            }
        if self.control != "pixels":
            columns |= {"patch_size": model.patch_size, "patch_stride": model.patch_stride, "pool": model.pool}
        return columns

    def to_dict(self) -> dict[str, Any]:
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialSpec:
        return cls(**{**values, "config": PretrainConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a study share; ``dataclasses.asdict`` gives JSON types."""

    folder: str  # the study's: absolute, seen by every node unless there is an exchange
    dataset: str  # name of the images in the record
    skip_unreadable: bool = False
    threads: int = 1  # of a one-worker trial
    workers: int = 1  # processes that train one trial; more than one use Ray Train
    least_workers: int | None = None  # that a trial may run with while nodes are missing; None is all
    gpus: float = 0.0
    timeout: float | None = None  # seconds after which the trial's process is killed
    metrics: str | None = None  # module:function of further measures, called with a MeasureInput
    code_version: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    gauges: bool = False  # whether each epoch is reported to the dashboard
    exchange: str | None = None  # name of the actor that gives trials access to the folder
    checkpoint_uri: str | None = None  # object store for checkpoints of trials with several workers; None is the folder

    @property
    def stop_file(self) -> Path:
        """Exists while the study is stopping."""
        return Path(self.folder) / ".stop"

    def checkpoints(self, trial_id: str) -> Path:
        """Folder of a trial's checkpoints: the same after a retry and after ``--resume``."""
        return Path(self.folder) / "checkpoints" / trial_id


class TrialResult(TrialRow, total=False):
    """What a trial sends back: a row of the trials and what is not a column of it."""

    history: list[EpochRow]
    notices: list[str]  # warnings for the user
    error_kind: ErrorKind | None  # why it ended without being done, for decisions; error is the text for people


def split_result(result: TrialResult, study: str) -> tuple[TrialRow, list[EpochRow]]:
    """The row of the trials and those of the history."""
    extra = ("history", "notices", "error_kind")
    row = {"study": study, **{name: value for name, value in result.items() if name not in extra}}
    return cast(TrialRow, row), result.get("history", [])


def blank_result(spec: TrialSpec, job: TrialJob, status: Status, error: str, kind: ErrorKind) -> TrialResult:
    """The result of a trial that could not report its own."""
    return cast(TrialResult, {**trial_columns(spec, job), "status": status, "error": error, "error_kind": kind})


def trial_columns(spec: TrialSpec, job: TrialJob) -> dict[str, Any]:
    """The columns that are known before a trial runs."""
    return {
        "trial_id": spec.trial_id,
        "phase": spec.phase,
        "dataset": job.dataset,
        **spec.candidate_columns(),
        "seed": spec.seed,
        "config": spec.config.to_dict(),
        "config_hash": spec.config.hash(),
        "code_version": job.code_version,
        "versions": job.versions,
        "device": _device_name(job),
    }


def _device_name(job: TrialJob) -> str:
    """What decides how results are rounded, such as ``cpu: AMD EPYC 7B13 (AVX2), 1 thread``."""
    import torch

    from pmae.devices import cpu_name

    if job.gpus:
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "gpu"
    else:
        name = f"cpu: {cpu_name()}, {count(job.threads, 'thread')}"
    return name if job.workers == 1 else f"{name}, {job.workers} workers"
