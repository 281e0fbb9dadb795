"""The same training loop on several workers through Ray Train. The only module of ``pmae`` that imports Ray.

Every worker draws order, crops and masks of the whole batch and takes its part; gradients and losses are averaged.
Worker 0 saves a checkpoint, from which Ray Train resumes when a worker or its node is lost.
"""

from __future__ import annotations

import os

# Before Ray is imported: by default every report waits up to 2 s and every run ends 5 s late.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # workers would run at nice 15, behind everything else

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray._private import ray_constants, services
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pmae.components import PrincipalComponents, fit_components
from pmae.config import PretrainConfig, is_own
from pmae.errors import ConfigError, DivergedError
from pmae.files import MappedArray
from pmae.training.checkpoint import load_checkpoint, save_checkpoint
from pmae.training.loader import Images, OneSplit
from pmae.training.loop import PretrainResult, Training, check_checkpoint_every, training_images

# Ray's switch for macOS and Windows: with 0 all processes have the address 127.0.0.1.
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
STORE_SHARE = 0.3  # of a node's object store that images may take; larger ones are mapped from their file


class PMAETrainer:
    """Pre-train one model on ``num_workers`` workers; :meth:`fit` gives what :func:`pmae.trainer.pretrain` gives.

    Args:
        config, images, components, seed: As for :func:`pmae.trainer.pretrain`.
        num_workers: Workers that share each batch; (least, most) lets Ray continue with fewer while nodes are missing.
        use_gpu: One GPU per worker; ``auto`` takes them if the cluster has any.
        cpus_per_worker: CPU cores that each worker declares and uses.
        storage_path: Where checkpoints go: an absolute path, ``file://``, or a URI that pyarrow knows, seen by every
            node. None is Ray's default, ``~/ray_results``.
        storage_filesystem: pyarrow filesystem of ``storage_path`` where a URI does not say enough.
        name: Name of the run; with the same name and storage it resumes from the last checkpoint.
        max_failures: Lost workers that are replaced before the run fails.
        checkpoint_every: Epochs between checkpoints; the last epoch always has one.
        callbacks: ``ray.train.UserCallback`` objects, for example Tune's ``TuneReportCallback``.

    Raises:
        ConfigError: Settings that contradict the images, or a strategy of your own.
    """

    def __init__(
        self,
        config: PretrainConfig,
        images: Images | np.ndarray,
        num_workers: int | tuple[int, int] = 1,
        use_gpu: bool | Literal["auto"] = "auto",
        *,
        components: PrincipalComponents | None = None,
        seed: int = 0,
        cpus_per_worker: int = 1,
        storage_path: str | os.PathLike[str] | None = None,
        storage_filesystem: Any = None,
        name: str | None = None,
        max_failures: int = 2,
        checkpoint_every: int = 1,
        callbacks: Sequence[Any] = (),
    ) -> None:
        if is_own(config.masking.strategy):
            raise ConfigError(f"strategy {config.masking.strategy!r} does not reach workers; use pretrain()")
        check_checkpoint_every(checkpoint_every)
        self.images = images
        array, indices = training_images(images)
        self.config = config.resolve(int(array.shape[1]), int(array.shape[3]), len(indices))
        self.components, self.seed = components, seed
        self.num_workers, self.use_gpu = num_workers, use_gpu
        self.cpus_per_worker, self.checkpoint_every = cpus_per_worker, checkpoint_every
        self.run = RunConfig(
            name=name,
            storage_path=None if storage_path is None else str(storage_path),
            storage_filesystem=storage_filesystem,
            callbacks=list(callbacks),
            # A shortage of resources raises instead of being retried forever, unless fewer workers will do: Ray still
            # counts on a node that has only just been lost.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=max_failures, controller_failure_limit=0 if isinstance(num_workers, int) else max_failures
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        )

    def fit(self) -> PretrainResult:
        """Train to the end, on a Ray of its own unless one runs, and return model (on the CPU) and history.

        Raises:
            ConfigError: More workers than the cluster has cores for, or GPUs where it has none.
            DivergedError: The loss became infinite or NaN.
            ray.train.TrainingFailedError: Workers were lost more often than ``max_failures`` allows.
        """
        if not ray.is_initialized():
            _start_ray()
        use_gpu = _checked_resources(self.num_workers, self.cpus_per_worker, self.use_gpu)
        scaling = ScalingConfig(
            num_workers=self.num_workers,  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": self.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        )
        masking, (array, indices) = self.config.masking, training_images(self.images)
        if self.components is None and masking.method == "pmae":
            self.components = fit_components(masking.basis, self.images)  # once, and not by every worker
        job = {
            "config": self.config.to_dict(),
            "seed": self.seed,
            # References are fetched once per node, without a copy per worker.
            "components": ray.put(self.components),
            "images": _shared(np.asarray(array)),
            "indices": ray.put(indices),
            "threads": self.cpus_per_worker,
            "checkpoint_every": self.checkpoint_every,
        }
        trainer = TorchTrainer(_worker, train_loop_config=job, scaling_config=scaling, run_config=self.run)
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _diverged(error) or error from None
        if result.error is not None:
            raise _diverged(result.error) or result.error
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as folder:
            state = load_checkpoint(folder, self.config.hash(), self.seed)
        training = Training(
            self.config, self.images, self.components, seed=self.seed, device=torch.device("cpu"),
            threads=None if use_gpu else self.cpus_per_worker,
        )  # fmt: skip
        training.restore(state)
        return training.result()


def _start_ray() -> None:
    """Join the cluster that ``RAY_ADDRESS`` or ``ray start`` names, else start a Ray that listens on 127.0.0.1 only."""
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    if services.canonicalize_bootstrap_address(None) is not None:  # type: ignore[arg-type]
        ray.init(**options)
        return
    before, usual = os.environ.get(LOOPBACK), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        ray.init(address="local", **options)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = usual
        os.environ.pop(LOOPBACK)
        if before is not None:
            os.environ[LOOPBACK] = before


def _shared(images: np.ndarray) -> ray.ObjectRef | MappedArray:
    """Images in the object store, or where to map them when they would fill it."""
    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    place = MappedArray.of(images)
    if place is not None and images.nbytes > STORE_SHARE * min(stores):
        return place
    return ray.put(images)


def _worker(job: dict[str, Any]) -> None:
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(job["threads"])

    def parallel(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    pixels = job["images"].open() if isinstance(job["images"], MappedArray) else ray.get(job["images"])
    training = Training(
        PretrainConfig.from_dict(job["config"]),
        OneSplit(pixels, ray.get(job["indices"])),
        ray.get(job["components"]),
        seed=job["seed"],
        device=device,
        rank=rank,
        world_size=world_size,
        wrap=None if world_size == 1 else parallel,
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            training.restore(load_checkpoint(folder, training.config.hash(), job["seed"]))
    for record in training.epochs():
        with tempfile.TemporaryDirectory() as folder:
            saved = rank == 0 and training.checkpoint_is_due(job["checkpoint_every"])
            if saved:
                save_checkpoint(folder, training.epoch, training.state())
            ray.train.report(record, checkpoint=Checkpoint.from_directory(Path(folder)) if saved else None)


def _diverged(error: BaseException | None) -> DivergedError | None:
    """The DivergedError among the causes of a failed run, however deep Ray has wrapped it."""
    if error is None or isinstance(error, DivergedError):
        return error
    failures = getattr(error, "worker_failures", None) or {}
    causes = [error.__cause__, getattr(error, "cause", None), *failures.values()]
    return next((found for cause in causes if (found := _diverged(cause))), None)


def _checked_resources(num_workers: int | tuple[int, int], cpus_per_worker: int, use_gpu: bool | str) -> bool:
    """Whether the workers get GPUs; ConfigError if the cluster has not what they need."""
    least = num_workers if isinstance(num_workers, int) else num_workers[0]
    if least < 1:
        raise ConfigError(f"num_workers is {num_workers!r}; at least 1 is needed")
    cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
    if use_gpu is True and not gpus:
        raise ConfigError("use_gpu is True, but no node of the Ray cluster has a GPU; use use_gpu='auto' or False")
    if least * cpus_per_worker > cpus:
        raise ConfigError(
            f"{least} workers of {cpus_per_worker} CPUs were asked for, but the Ray cluster has {cpus} CPUs; "
            f"use num_workers={max(1, cpus // cpus_per_worker)}"
        )
    gives_gpus = gpus > 0 if use_gpu == "auto" else bool(use_gpu)
    if gives_gpus and least > gpus:
        raise ConfigError(
            f"{least} GPU workers were asked for, but the Ray cluster has {gpus} GPUs; use fewer, or use_gpu=False"
        )
    return gives_gpus
