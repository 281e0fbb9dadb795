"""One trial: train one configuration with one seed, score it, return the measured columns.

A pure function of configuration and seed: divergence, lack of memory and a request to stop become a status.
"""

from __future__ import annotations

import datetime
import errno
import functools
import importlib
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pmae.components import PrincipalComponents, cached_components
from pmae.config import DataConfig
from pmae.data import ImageSet, load_images
from pmae.errors import ConfigError, DataError, DivergedError
from pmae.trainer import PretrainResult, pretrain
from tune.trial.spec import FOLD_REPEATS, ErrorKind, TrialJob, TrialResult, TrialSpec, evaluation_of, trial_columns

if TYPE_CHECKING:
    import numpy as np

OnEpoch = Callable[[dict[str, Any]], None]
HISTORY = ("epoch", "train_loss", "objective", "learning_rate", "images_per_second")


class StopRequested(Exception):
    """The study is stopping; the trial ends after its epoch."""


@dataclass(frozen=True)
class MeasureInput:
    """Input of a study's own measures: a trained encoder and the images."""

    result: PretrainResult
    images: ImageSet
    spec: TrialSpec
    features: Mapping[str, np.ndarray]  # of the encoder (N, W) by split that may be read

    @property
    def split(self) -> str:
        """The split that may be read: ``val`` while exploring, ``test`` once confirmed."""
        return "test" if self.spec.phase == "confirm" else "val"


def run_trial(spec: TrialSpec, job: TrialJob, on_epoch: OnEpoch | None = None) -> TrialResult:
    """Train and score; returns columns of ``TRIAL_SCHEMA`` and what :class:`TrialResult` adds.

    Does not raise for failures of the training: ``status``, ``error`` and ``error_kind`` report them. A full disk is
    not a failure of the trial: the status is ``interrupted``, so ``--resume`` runs it again.
    """
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    history: list[dict[str, Any]] = []

    def each_epoch(record: dict[str, Any]) -> None:
        history.append(record)
        if on_epoch is not None:
            on_epoch(record)
        if job.stop_file.exists():
            raise StopRequested(f"stopped after epoch {record['epoch'] + 1} of {spec.config.optim.epochs}")

    measured: dict[str, Any] = {}
    ending: dict[str, Any] = {"status": "done", "error": None, "error_kind": None}
    # Warnings for the user (corrupted checkpoints and caches) are collected instead of printed in a worker.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            measured = _train_and_score(spec, job, each_epoch)
        except Exception as problem:
            ending = _ending(problem)
            if isinstance(problem, DivergedError):
                history = problem.history  # the epochs of an earlier process included
    ours = f"{os.sep}pmae{os.sep}", f"{os.sep}tune{os.sep}"
    history = measured.pop("history", history)
    result = {
        **trial_columns(spec, job),
        **measured,
        **ending,
        "epochs": len(history),
        "train_loss": history[-1]["train_loss"] if history else None,
        "objective": history[-1]["objective"] if history else None,
        "seconds": time.perf_counter() - clock,
        "started_at": started.isoformat(),
        "peak_memory_bytes": _peak_memory(),
        "history": [{"trial_id": spec.trial_id, "seed": spec.seed, **{k: h[k] for k in HISTORY}} for h in history],
        "notices": [str(w.message) for w in caught if w.category is UserWarning and any(o in w.filename for o in ours)],
    }
    return cast(TrialResult, result)


def _train_and_score(spec: TrialSpec, job: TrialJob, on_epoch: OnEpoch) -> dict[str, Any]:
    """Train unless it is a control, then linear probe, k-NN and the study's measures; exploring never reads test."""
    import torch

    from pmae.probes import extract_features, pixel_features, untrained_encoder

    if job.workers == 1:  # of the probes, also of controls; a training sets its own
        torch.set_num_threads(job.threads)
    config, data = spec.config, (spec.config.data, job.skip_unreadable)
    images, components = shared_images(*data), None
    if config.masking.method == "pmae" and spec.control != "pixels":
        components = shared_components(*data, config.masking.basis)
    splits = ("train", "val") if spec.phase == "explore" else ("train", "val", "test")
    columns: dict[str, Any] = {
        "train_images": len(images.indices("train")),
        "evaluation": evaluation_of(config, len(images.indices("test"))),
    }
    if spec.control == "pixels":
        return {**columns, **_probe(spec, pixel_features(images, splits), images)}
    if spec.control is not None:
        encoder = untrained_encoder(config, images, components, seed=spec.seed)
        return {**columns, **_probe(spec, extract_features(encoder, images, splits), images)}
    result = _train(spec, job, images, components, on_epoch)
    features = extract_features(result.encoder, images, splits)
    columns["metrics"] = {}
    if job.metrics is not None:
        module, _, function = job.metrics.partition(":")
        measure = getattr(importlib.import_module(module), function)
        columns["metrics"] = measure(MeasureInput(result, images, spec, features))
    columns |= _probe(spec, features, images)
    if spec.samples:
        from tune.trial.image_strips import write_strip

        write_strip(Path(job.folder), spec, result, images)
    epochs = result.history
    steady = [h["images_per_second"] for h in epochs[1:] or epochs]  # the first epoch also warms up caches
    return {
        "achieved_ratio": sum(h["achieved_ratio"] for h in epochs) / len(epochs),
        "achieved_sd": sum(h["achieved_sd"] for h in epochs) / len(epochs),
        "training_problem": result.training_problem or "",
        "precision": result.precision,
        "images_per_second": sorted(steady)[len(steady) // 2],
        "history": epochs,
        **columns,
    }


def _train(
    spec: TrialSpec, job: TrialJob, images: ImageSet, components: PrincipalComponents | None, on_epoch: OnEpoch
) -> PretrainResult:
    folder = job.checkpoints(spec.trial_id)
    every = max(1, (spec.config.optim.epochs or 1) // 20)
    if job.workers > 1:
        from pmae.training.distributed import PMAETrainer
        from tune.trial.metrics import SharedTrialGauges

        workers = job.workers if job.least_workers is None else (job.least_workers, job.workers)
        return PMAETrainer(
            spec.config, images, num_workers=workers, use_gpu=job.gpus > 0, components=components, seed=spec.seed,
            **_shared_storage(job, folder), name=spec.trial_id, checkpoint_every=every,
            callbacks=[SharedTrialGauges(spec)] if job.gauges else [],
        ).fit()  # fmt: skip
    options: dict[str, Any] = {
        "seed": spec.seed,
        "on_epoch": lambda record, model: on_epoch(record),
        "checkpoint_dir": folder,
        "checkpoint_every": every,
        "threads": job.threads,
    }
    if any(folder.glob("epoch-*.ckpt")):
        try:
            return pretrain(spec.config, images, components, resume_from=folder, **options)
        except (DataError, ConfigError) as problem:  # corrupted, or of a trial that had this id before
            warnings.warn(f"{problem}; training from the beginning", stacklevel=1)
    return pretrain(spec.config, images, components, **options)


def _shared_storage(job: TrialJob, folder: Path) -> dict[str, Any]:
    """Where the workers of a trial write its checkpoints, on any node."""
    if job.checkpoint_uri is None:
        return {"storage_path": folder.parent}
    from studies.storage.object_store import Store
    from tune.trial.remote_folder import fetch_credentials

    os.environ.update(fetch_credentials(job))
    store = Store.open(job.checkpoint_uri)
    return {"storage_path": store.root, "storage_filesystem": store.filesystem}


def _probe(spec: TrialSpec, features: Mapping[str, np.ndarray], images: ImageSet) -> dict[str, float | None]:
    from pmae.probes import crossval_linear_probe, knn_probe, linear_probe

    probe, test = spec.config.probe, spec.phase != "explore"
    if evaluation_of(spec.config, len(images.indices("test"))) == "folds":
        repeats = FOLD_REPEATS if test else 1
        linear = crossval_linear_probe(features, images, seed=spec.seed, repeats=repeats, include_test=test)
    else:
        linear = linear_probe(None, images, probe.protocol, spec.seed, features=features, score_test=test)
    knn = knn_probe(None, images, k=probe.knn_k, features=features, score_test=test)
    return {
        "val_linear": linear.val_accuracy,
        "test_linear": linear.test_accuracy,
        "val_knn": knn.val_accuracy,
        "test_knn": knn.test_accuracy,
    }


@functools.lru_cache(maxsize=2)
def shared_images(data: DataConfig, skip_unreadable: bool) -> ImageSet:
    """The images, mapped from the cache once per process."""
    source = data.dataset, data.data_root, data.image_size, data.limit, data.data_seed
    return load_images(*source, skip_unreadable=skip_unreadable)


@functools.lru_cache
def shared_components(data: DataConfig, skip_unreadable: bool, basis: str) -> PrincipalComponents:
    """The components, read from the cache once per process."""
    return cached_components(shared_images(data, skip_unreadable), basis)[0]


def _ending(problem: Exception) -> dict[str, Any]:
    kind: ErrorKind
    if isinstance(problem, StopRequested):
        status, kind, error = "interrupted", "stop_requested", str(problem)
    elif isinstance(problem, DivergedError):
        status, kind, error = "diverged", "diverged", str(problem)
    elif isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
        status, kind, error = "interrupted", "disk_full", f"the disk is full ({problem}); free space, then use --resume"
    elif _is_memory_error(problem):
        status, kind, error = "failed", "out_of_memory", (
            f"out of memory: {problem}. Use a smaller --batch-size, a larger patch size, fewer trials at a time "
            "(--max-concurrent) or a larger share of the GPU (--gpus-per-trial)"
        )  # fmt: skip
    else:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        error = f"{type(problem).__name__}: {problem} ({Path(where.filename).name}:{where.lineno})"
        status, kind = "failed", "exception"
    return {"status": status, "error": error, "error_kind": kind}


def _is_memory_error(problem: Exception) -> bool:
    if isinstance(problem, MemoryError) or (isinstance(problem, OSError) and problem.errno == errno.ENOMEM):
        return True
    text = str(problem).lower()  # torch raises a RuntimeError with one of these texts, for GPU and CPU
    return "out of memory" in text or "can't allocate memory" in text


def _peak_memory() -> int:
    """Largest memory of this process so far in bytes (of the GPU where one is used)."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
