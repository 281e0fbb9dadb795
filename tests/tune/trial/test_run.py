"""One trial in this process: whatever goes wrong in it becomes a status and an advice, never an exception."""

from __future__ import annotations

import errno
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from pmae.config import preset
from pmae.errors import DivergedError
from pmae.training.loop import Training
from tune.trial import run as trial
from tune.trial.run import run_trial
from tune.trial.spec import TrialJob, TrialSpec


@pytest.fixture
def spec() -> TrialSpec:
    config = preset("quick", "digits", "pmae").with_values(
        {"masking.ratio": 0.2, "model.patch_size": 4, "optim.epochs": 2, "data.limit": 100, "probe.knn_k": 5}
    )
    return TrialSpec("explore-0000", "explore", 1, "pmae r=0.20 p=4", config.resolve(8, 1))


@pytest.fixture
def job(tmp_path) -> TrialJob:
    return TrialJob(str(tmp_path), "digits")


def test_a_trial_gives_a_record_and_its_curve(spec, job):
    row = run_trial(spec, job)
    assert row["status"] == "done", row["error"]
    assert 0.2 < row["val_linear"] <= 1 and row["test_linear"] is None
    assert re.fullmatch(r"cpu: .* \(.+\), 1 thread", row["device"])
    assert [h["epoch"] for h in row["history"]] == [0, 1]
    again = run_trial(spec, TrialJob(job.folder + "/other", "digits"))
    assert (again["train_loss"], again["val_linear"]) == (row["train_loss"], row["val_linear"])


@pytest.mark.parametrize(
    ("problem", "status", "said"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "failed", "smaller --batch-size"),
        (MemoryError("cannot allocate"), "failed", "--max-concurrent"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "failed", "smaller --batch-size"),
        (DivergedError(3, 7, float("nan")), "diverged", "step 7"),
        (OSError(errno.ENOSPC, "No space left on device"), "interrupted", "the disk is full"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_goes_wrong_becomes_a_status(problem, status, said, spec, job, monkeypatch):
    def fail(*arguments: object) -> None:
        raise problem

    monkeypatch.setattr(trial, "_train", fail)
    row = run_trial(spec, job)
    assert row["status"] == status and said in row["error"]
    assert row.get("val_linear") is None


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_memory_that_is_not_there_becomes_advice(allocate, spec, job, monkeypatch):
    monkeypatch.setattr(trial, "_train", lambda *arguments: allocate(10**14))
    row = run_trial(spec, job)
    assert row["status"] == "failed" and "smaller --batch-size" in row["error"]


def test_a_trial_that_is_stopped_ends_with_its_epoch_and_resumes_later(spec, job):
    whole = run_trial(spec, TrialJob(job.folder + "/whole", "digits"))
    job.stop_file.touch()
    row = run_trial(spec, job)
    assert row["status"] == "interrupted" and "stopped after epoch 1 of 2" in row["error"]
    job.stop_file.unlink()
    rest = run_trial(spec, job)
    assert rest["status"] == "done" and rest["history"][0]["train_loss"] == row["history"][0]["train_loss"]
    assert (rest["train_loss"], rest["val_linear"]) == (whole["train_loss"], whole["val_linear"])


def test_a_trial_that_diverges_after_it_resumed_keeps_its_first_epochs(spec, job, monkeypatch):
    def explode(training: Training) -> tuple:
        losses, *rest = run_steps(training)
        return (losses * (float("nan") if training.epoch == 1 else 1.0), *rest)

    run_steps = Training._run_steps
    job.stop_file.touch()
    run_trial(spec, job)
    job.stop_file.unlink()
    monkeypatch.setattr(Training, "_run_steps", explode)
    resumed, whole = run_trial(spec, job), run_trial(spec, TrialJob(job.folder + "/whole", "digits"))
    assert resumed["status"] == "diverged" and resumed["epochs"] == 1
    for name in ("error", "epochs", "train_loss", "objective"):
        assert resumed[name] == whole[name]


def test_a_checkpoint_of_another_trial_is_not_resumed_from(spec, job):
    job.stop_file.touch()
    run_trial(replace(spec, seed=2), job)
    job.stop_file.unlink()
    row, whole = run_trial(spec, job), run_trial(spec, TrialJob(job.folder + "/whole", "digits"))
    assert row["status"] == "done" and "seed" in row["notices"][0] and "from the beginning" in row["notices"][0]
    assert (row["train_loss"], row["val_linear"]) == (whole["train_loss"], whole["val_linear"])
