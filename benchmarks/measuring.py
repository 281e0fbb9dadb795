"""What all benchmarks share: the machine a number was taken on, medians with spread, and where results are written."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pmae.devices import cpu_name, synchronize

if TYPE_CHECKING:
    from pmae.training.loop import Training

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parent.parent


def describe_machine(device: str, packages: Sequence[str], script: str) -> dict[str, Any]:
    """Device, versions and commit: what a number means nothing without.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        packages: Those whose versions matter.
        script: Path of the benchmark; uncommitted changes of it and of the toolkit are noted.
    """
    return {
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device != "cpu" else None,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {p: v for p in packages if (v := _version(p))},
        "commit": _git("rev-parse", "HEAD") or None,
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "pmae", "tune", "studies", script)),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def now(device: str | torch.device) -> float:
    """Seconds on a clock, once the device has done all that was asked of it."""
    synchronize(torch.device(device))
    return time.perf_counter()


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Spread of ours / theirs, round by round: both of a round ran right after each other."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def matmul_peak(device: str, side: int, dtype: torch.dtype) -> float:
    """FLOP/s of products of ``side`` x ``side`` matrices, the best of five runs of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        start = now(device)
        for _ in range(10):
            a @ b
        best = max(best, 10 * 2 * side**3 / (now(device) - start))
    return best


def flops_per_image(training: Training) -> float:
    """Multiply-adds (counted as 2) of one plain fp32 step, forward and backward, for each image; leaves gradients."""
    pixels = next(iter(training.batches.epoch(0)))
    masks = torch.Generator(device=training.device).manual_seed(0)
    draw = training.masks.draw(len(pixels), masks, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        training.model(pixels, draw.mask, draw.visible_tokens).loss.backward()
    return counter.get_total_flops() / len(pixels)


def most_allowed(result: dict[str, Any], method: str, precision: str = "fp32") -> float:
    """Images per second that the measured rate of matrix products allows a method of ``training_step.py``."""
    rates = result["matmul_gflops" if precision == "fp32" else "matmul_gflops_bf16"]
    return spread(rates)["median"] / result["gflop_per_image"][method]


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write the JSON and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine
        return ""
