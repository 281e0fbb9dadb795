"""Device, precision and CPU threads."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from pmae.errors import ConfigError

# On the CPU, casting costs more than bf16 products save in narrow models (benchmarks/README.md).
BF16_CPU_WIDTH = 128
# Steps with less arithmetic run on one thread: a second one costs more than it saves (benchmarks/README.md).
ONE_THREAD_FLOPS = 5e9
_THREADS_AT_IMPORT = torch.get_num_threads()


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``; ConfigError without it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"(cpu|cuda)(:(0|[1-9][0-9]?))?", str(name)):
        raise ConfigError(f"device is {name!r}; allowed are auto, cpu, cuda and cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device is {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices; use 'auto' or 'cpu'"
        )
    return device


def autocast_dtype(precision: str, device: torch.device, width: int) -> torch.dtype | None:
    """bfloat16 where ``precision`` asks for it, or a model of ``width`` is faster with it on the device, else None."""
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp32":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if width >= BF16_CPU_WIDTH and cpu_has_bf16() else None


def cpu_name() -> str:
    """The CPU's model and the vector instructions that torch uses on it, which both decide how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pick_threads(step_flops: float, device: torch.device) -> int:
    """CPU threads for a training: one where a step has less than ``ONE_THREAD_FLOPS``, otherwise torch's number.

    A number that the user chose is kept: OMP_NUM_THREADS or MKL_NUM_THREADS is set, or torch's number has changed
    since this module was imported, or it is neither all of the cores nor half of them, between which torch chooses.
    """
    threads, cores = torch.get_num_threads(), {os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        cores.add(len(os.sched_getaffinity(0)))
    untouched = threads == _THREADS_AT_IMPORT and threads in cores | {max(1, c // 2) for c in cores}
    chosen = any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    small = device.type == "cpu" and step_flops < ONE_THREAD_FLOPS
    return 1 if small and untouched and not chosen else threads


@contextlib.contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Run torch with ``threads`` CPU threads and restore its number afterwards; None changes nothing."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
