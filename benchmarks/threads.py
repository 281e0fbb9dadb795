"""Whether torch's default number of threads pays, by the arithmetic of a training step.

    python benchmarks/threads.py                         # about 3 minutes on 2 cores

Trains models of growing size in one process, epochs with one thread and with torch's default in alternation. On a
machine that other processes use, a step with many small operators waits at each for a thread that has no core: the load
average is written next to the numbers.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from components import made_images
from measuring import RESULTS, describe_machine, paired_ratio, spread, write_result

from pmae.components.bases import fit_basis
from pmae.config import preset, step_flops
from pmae.training.loop import Training

# Image size, channels and settings in which a run differs from the quick preset (batch 32), smallest first.
MODELS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "8 px, patch 4": (8, 1, {"model.patch_size": 4}),
    "8 px, patch 2": (8, 1, {"model.patch_size": 2}),
    "28 px, patch 7": (28, 1, {"model.patch_size": 7}),
    "28 px, patch 4": (28, 1, {"model.patch_size": 4}),
    "32 px color, patch 4": (32, 3, {"model.patch_size": 4}),
    "width 128, depth 4": (28, 1, {"model.width": 128, "model.depth": 4, "model.decoder_width": 128}),
    "width 192, depth 6": (28, 1, {"model.width": 192, "model.depth": 6, "model.decoder_width": 192}),
}


def measure(method: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an epoch with one thread and with the default, in alternation."""
    size, channels, values = MODELS[name]
    batch = 32
    images = made_images(batch * options.steps, size)[..., :channels].copy()
    values = {**values, "optim.batch_size": batch, "optim.epochs": 2 * options.rounds + 2, "optim.precision": "fp32"}
    values |= {"optim.steps": None, "optim.warmup_epochs": 1.0, "model.patch_size": values.get("model.patch_size", 4)}
    config = preset("quick", "made", method).with_values(values)
    basis = None
    if method == "pmae":
        # The rate does not depend on what the basis holds.
        config, basis = config.with_values({"masking.basis": "dct"}), fit_basis("dct", images)
    training = Training(config, images, basis, seed=0, device=torch.device("cpu"))
    epochs, default = training.epochs(), options.threads
    seconds: dict[int, list[float]] = {1: [], default: []}
    begin = time.perf_counter()
    for turn in range(options.rounds + 1):  # the first warms up
        if turn > 3 and time.perf_counter() - begin > options.seconds:
            break
        for threads in (1, default):
            torch.set_num_threads(threads)
            start = time.perf_counter()
            next(epochs)
            if turn:
                seconds[threads].append((time.perf_counter() - start) / options.steps)
    torch.set_num_threads(default)
    return {
        "method": method,
        "model": name,
        "gflop_per_step": step_flops(training.config) / 1e9,
        "milliseconds": {t: spread([1e3 * s for s in v]) for t, v in seconds.items()},
        "one_thread_speed": paired_ratio(seconds[default], seconds[1]),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="steps of an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20, help="after which a model's rounds end, at least 3")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="compared with one thread")
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    if options.threads < 2:
        parser.error("torch uses one thread here; leave OMP_NUM_THREADS unset or give --threads 2")
    runs: list[dict[str, Any]] = []
    result = {
        "benchmark": "threads",
        **describe_machine("cpu", ("torch", "timm"), __file__),
        "compared": options.threads,
    }
    for name in MODELS:
        for method in ("pmae", "mae"):
            runs.append(one := measure(method, name, options))
            gain, times = one["one_thread_speed"], one["milliseconds"]
            print(
                f"{one['gflop_per_step']:7.2f} GFLOP a step, {method:4} {name:22}: {times[1]['median']:7.1f} ms with 1 "
                f"thread, {times[options.threads]['median']:7.1f} with {options.threads}; 1 thread is "
                f"{gain['median']:.2f} times as fast ({gain['lowest']:.2f} to {gain['highest']:.2f}), "
                f"load {one['load']:.1f}", flush=True,
            )  # fmt: skip
            # After every model: on a busy machine the last ones take long.
            found = {**result, "runs": sorted(runs, key=lambda run: run["gflop_per_step"])}
            write_result(found, options.out or RESULTS / "threads-cpu.json")


if __name__ == "__main__":
    main()
