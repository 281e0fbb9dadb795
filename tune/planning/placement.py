"""Placement of trials: how many run at a time, and the memory and time that one needs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pmae.config import ENCODER_PRESETS, PretrainConfig, components_kept, forward_flops, steps_per_epoch
from pmae.data.decode import available_cpus
from pmae.errors import ConfigError
from studies.formatting import count
from tune.options import MachineOptions

GIB = 2**30
PROCESS_MEMORY = 0.7 * GIB  # an idle worker with torch, timm and Ray loaded
MEMORY_SHARE = 0.8  # of the machine's memory that trials may plan with
MAX_THREADS = 8  # more do not make these models faster
FLOPS_PER_CORE = 60e9  # of small models in fp32; measured: 97e9 on an EPYC with AVX-512, about half with AVX2
FLOPS_PER_GPU = 1e14
STEP_OVERHEAD = 0.012  # seconds per step and five blocks in addition to arithmetic, measured on small models
TRIAL_OVERHEAD = 1.5  # seconds: start, probes, record
GROUP_OVERHEAD = 10.0  # seconds to start several workers for a trial
GPU_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, WSL, AMD


@dataclass(frozen=True)
class Machine:
    """Resources: CPU cores, GPUs, bytes of memory, bytes of memory of one GPU."""

    cpus: int
    gpus: int = 0
    memory: float = 8 * GIB
    gpu_memory: float = 0.0

    @classmethod
    def here(cls) -> Machine:
        """This machine or container; imports torch only where there may be GPUs."""
        gpus, gpu_memory = 0, 0.0
        if may_have_gpus():
            import torch

            gpus = torch.cuda.device_count()
            gpu_memory = torch.cuda.get_device_properties(0).total_memory if gpus else 0.0
        return cls(available_cpus(), gpus, memory_here(), gpu_memory)

    @classmethod
    def cluster(cls, resources: dict[str, float]) -> Machine:
        """Read the resources of a Ray cluster from ``ray.cluster_resources()``."""
        return cls(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), resources.get("memory", 8 * GIB))


@dataclass(frozen=True)
class Placement:
    """Resources of each trial, and the number of trials that run at a time."""

    concurrent: int
    threads: int  # CPU threads (and cores) of each worker
    workers: int  # of each trial, as are gpus
    gpus: float
    memory: float  # estimated bytes of the largest trial
    limited_by: str  # the resource that limits ``concurrent``
    least_workers: int | None = None  # that a trial may run with while nodes are missing; None is all of them
    # Trials of the exploration that run at a time, at most a quarter of all, so that the sampler can learn from
    # results. Fixed points and the confirm phase are not limited.
    lag: int = 1

    def describe(self, machine: Machine) -> str:
        """``2 at a time (1 worker with 1 CPU, about 0.8 GiB each), limited by 2 CPUs``."""
        fewer = "" if self.least_workers is None else f"{self.least_workers} to "
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        each = f"{fewer}{count(self.workers, 'worker')} with {count(self.threads, 'CPU')}{gpus}"
        explore = f"; {self.lag} while the search learns" if self.lag < self.concurrent else ""
        return (
            f"{self.concurrent} at a time ({each}, about {self.memory / GIB:.1f} GiB each), limited by "
            f"{self.limited_by}{explore}"
        )


def may_have_gpus() -> bool:
    """Whether this machine has a GPU driver; without one torch need not be imported, which takes seconds."""
    return sys.platform != "linux" or any(Path(sign).exists() for sign in GPU_DRIVERS)


def memory_here() -> float:
    """Return the bytes of memory of this machine or container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return total


def compute_placement(
    machine: Machine, options: MachineOptions, trials: int, memory: float, explored: int = 0, threads: int | None = None
) -> Placement:
    """Compute how many trials run at a time, and the resources of each; ConfigError if there are too few for one.

    ``trials`` are those of the larger phase, ``explored`` those of the exploration, ``memory`` the largest one's bytes.
    ``threads`` that trials had so far, which decide the last bits of a result, are kept if there are so many CPUs.
    """
    _check(machine, options)
    least, workers = worker_range(options.workers_per_trial)
    gpus = options.gpus_per_trial
    if gpus is None:
        gpus = float(min(machine.gpus, workers))
    kept = min(threads or 1, max(1, machine.cpus // workers))
    fits = {
        count(machine.cpus, "CPU"): max(1, machine.cpus // (workers * kept)),
        f"memory ({machine.memory / GIB:.0f} GiB)": int(machine.memory * MEMORY_SHARE // memory),
    }
    if gpus:
        fits[count(machine.gpus, "GPU")] = int(machine.gpus / gpus + 1e-9)
        if machine.gpu_memory:
            fits["GPU memory"] = int(machine.gpus * (machine.gpu_memory * MEMORY_SHARE // memory)) or 1
    fits["the number of trials"] = max(1, trials)
    if options.max_concurrent is not None:
        fits["--max-concurrent"] = options.max_concurrent
    limited_by, concurrent = min(fits.items(), key=lambda item: item[1])
    if concurrent < 1:
        raise ConfigError(
            f"a trial needs about {memory / GIB:.1f} GiB, more than {limited_by} allows; use a smaller --batch-size, "
            "larger --patch-sizes or a smaller model"
        )
    threads = kept if threads else max(1, min(MAX_THREADS, machine.cpus // (concurrent * workers)))
    lag = min(concurrent, max(2, explored // 4))
    return Placement(concurrent, threads, workers, gpus, memory, limited_by, least if least < workers else None, lag)


def check_memory(configs: Sequence[PretrainConfig]) -> None:
    """Refuse configurations that do not fit into the memory of this machine, before images are decoded."""
    memory, allowed = max(trial_memory(config, 0) for config in configs), MEMORY_SHARE * memory_here()
    if memory > allowed:
        raise ConfigError(
            f"a trial needs about {memory / GIB:.1f} GiB, more than memory ({allowed / GIB:.1f} GiB) allows; use a "
            "smaller --image-size or --batch-size, larger --patch-sizes, a smaller model, or a cluster (--address)"
        )


def worker_range(text: str) -> tuple[int, int]:
    """Parse ``--workers-per-trial`` to the least and the most workers: ``2`` is (2, 2), ``1-2`` is (1, 2)."""
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text.strip())
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise ConfigError(
            f"--workers-per-trial is {text}; it must be a number of at least 1, or LEAST-MOST such as 1-2"
        )
    return least, most


def _check(machine: Machine, options: MachineOptions) -> None:
    (least, workers), gpus = worker_range(options.workers_per_trial), options.gpus_per_trial
    if least > machine.cpus:
        raise ConfigError(
            f"--workers-per-trial {options.workers_per_trial} needs {least} CPUs, there are {machine.cpus}; "
            f"use {machine.cpus} or fewer, or join a cluster with --address"
        )
    if gpus is None and workers > 1 and 0 < machine.gpus < least:
        raise ConfigError(
            f"--workers-per-trial {options.workers_per_trial}: each worker takes one GPU, of which there are "
            f"{machine.gpus}; use {machine.gpus} or fewer, or --gpus-per-trial 0"
        )
    if gpus is None:
        return
    if gpus > machine.gpus:
        raise ConfigError(
            f"--gpus-per-trial {gpus:g} exceeds the available GPUs ({machine.gpus}); leave it out, "
            f"use --gpus-per-trial {machine.gpus}, or join a cluster with --address"
        )
    if gpus and workers > 1 and gpus != workers:
        raise ConfigError(
            f"--gpus-per-trial {gpus:g} with --workers-per-trial {options.workers_per_trial}: each worker takes one "
            f"GPU; use --gpus-per-trial {workers} or 0"
        )


def trial_memory(config: PretrainConfig, image_bytes: int) -> float:
    """Estimate the bytes of a trial: process, images, weights with Adam's moments, activations, components."""
    model, batch = config.model, -(-config.optim.batch_size // config.optim.accumulation_steps)
    width, depth, heads = model.shape or ENCODER_PRESETS["vit_tiny"]
    parts = (width, depth, heads), (model.decoder_width, model.decoder_depth, model.decoder_heads)
    weights = sum((4 + 2 * model.mlp_ratio) * w * w * d for w, d, _ in parts)
    tokens = model.tokens + 1
    activations = batch * sum(tokens * d * ((18 + 4 * model.mlp_ratio) * w + 5 * h * tokens) for w, d, h in parts)
    assert model.image_size is not None and model.channels is not None
    dimensions = model.image_size**2 * model.channels
    components = 2 * 4 * dimensions * components_kept(dimensions) if config.masking.method == "pmae" else 0
    return PROCESS_MEMORY + image_bytes + 16 * weights + 4 * activations / 2 + components


def trial_seconds(config: PretrainConfig, train_images: int, placement: Placement) -> float:
    """Estimate the seconds of a trial roughly, before any was measured."""
    optim = config.optim
    steps = (optim.epochs or 1) * steps_per_epoch(train_images, optim.batch_size)
    flops = 3 * steps * min(optim.batch_size, train_images) * forward_flops(config)
    speed = FLOPS_PER_GPU * placement.gpus if placement.gpus else FLOPS_PER_CORE * placement.threads * placement.workers
    depth = (config.model.shape or ENCODER_PRESETS["vit_tiny"])[1]
    blocks = depth + config.model.decoder_depth
    overhead = TRIAL_OVERHEAD + (GROUP_OVERHEAD if placement.workers > 1 else 0)
    return overhead + steps * STEP_OVERHEAD * blocks / 5 + flops / speed
