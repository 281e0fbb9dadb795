"""What a trial sends back: its row, its epochs, what to tell the user, and why it ended early."""

from __future__ import annotations

from typing import Any, Literal, cast

from studies.formatting import count
from studies.storage.rows import EpochRow, Status, TrialRow
from tune.trial.spec import TrialJob, TrialSpec

ErrorKind = Literal["stop_requested", "diverged", "disk_full", "out_of_memory", "timeout", "process_lost", "exception"]


class TrialResult(TrialRow, total=False):
    """A row of the trials and what is not a column of it.

    ``history`` are its epochs, ``notices`` warnings for the user; ``error_kind`` says why a trial that is not done
    ended, for decisions (``error`` is the text for people).
    """

    history: list[EpochRow]
    notices: list[str]
    error_kind: ErrorKind | None


def split_result(result: TrialResult, study: str) -> tuple[TrialRow, list[EpochRow]]:
    """The row and the epochs to write."""
    extra = ("history", "notices", "error_kind")
    row = {"study": study, **{name: value for name, value in result.items() if name not in extra}}
    return cast(TrialRow, row), result.get("history", [])


def blank_result(spec: TrialSpec, job: TrialJob, status: Status, error: str, kind: ErrorKind) -> TrialResult:
    """The result of a trial that could not report its own."""
    return cast(TrialResult, {**trial_columns(spec, job), "status": status, "error": error, "error_kind": kind})


def trial_columns(spec: TrialSpec, job: TrialJob) -> dict[str, Any]:
    """The columns that are known before a trial runs."""
    config, masking, model = spec.config, spec.config.masking, spec.config.model
    pmae = masking.method == "pmae"
    if spec.control is not None:
        candidate: dict[str, Any] = {"method": spec.control}
    else:
        candidate = {
            "method": masking.method,
            "strategy": masking.strategy,
            "ratio": masking.ratio,
            "mask_unit": None if pmae else masking.mask_unit,
            "basis": masking.basis if pmae else None,
        }
    if spec.control != "pixels":
        candidate |= {"patch_size": model.patch_size, "patch_stride": model.patch_stride, "pool": model.pool}
    return {
        "trial_id": spec.trial_id,
        "phase": spec.phase,
        "dataset": job.dataset,
        **candidate,
        "seed": spec.seed,
        "config": config.to_dict(),
        "config_hash": config.hash(),
        "code_version": job.code_version,
        "versions": job.versions,
        "device": device_name(job),
    }


def device_name(job: TrialJob) -> str:
    """For the record: what decides how results are rounded, such as ``cpu: AMD EPYC 7B13 (AVX2), 1 thread``."""
    import torch

    from pmae.devices import cpu_name

    if job.gpus:
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "gpu"
    else:
        name = f"cpu: {cpu_name()}, {count(job.threads, 'thread')}"
    return name if job.workers == 1 else f"{name}, {job.workers} workers"
