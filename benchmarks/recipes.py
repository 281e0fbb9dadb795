"""What the quick preset's training adds to an untrained encoder, for every data set that can be read here.

    python benchmarks/recipes.py --data /path/to/data

Each trial scores one encoder twice as a study would (linear probe on the recipe's pooling): before its first step and
after its last. Where the test split has fewer than 2,000 images that is the out-of-fold accuracy over all
labelled images, elsewhere the accuracy on the test split. The gain is paired by seed; its lower bound is the one-sided
95 % bound of a t distribution over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from scipy.stats import t as student

from benchmarks.measuring import RESULTS, describe_machine
from pmae.config import preset
from pmae.data.imageset import ImageSet
from pmae.data.load import load_images
from pmae.probes import crossval_linear_probe, extract_features, linear_probe
from pmae.training.loop import Training
from tune.trial.spec import FOLD_REPEATS, evaluation_of

# Name: source, root, image size, limit, patch size, seeds. DATA stands for the folder that --data names.
SETS: dict[str, tuple[str, str | None, int | None, int | None, int, int]] = {
    "digits": ("digits", None, None, None, 2, 5),
    "fashion-mnist": ("npz:DATA/grey/fashionmnist8.npz", None, None, None, 7, 3),
    "mnist": ("npz:DATA/grey/mnist.npz", None, None, None, 7, 3),
    "pneumoniamnist": ("npz:DATA/medmnist/pneumoniamnist.npz", None, None, None, 7, 3),
    "cifar10": ("parquet:DATA/cifar10", None, 32, 4000, 4, 3),
    "tinyimagenet-20": ("tinyimagenet", "DATA", 32, 4000, 4, 3),
}


def main() -> None:
    """Measure the chosen sets and merge them into the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", default=".", help="folder with grey/, medmnist/, cifar10/ and the TinyImageNet zip")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=["pmae", "mae"], choices=["pmae", "mae"])
    parser.add_argument("--out", type=Path, default=RESULTS / "recipes.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    for name in options.sets:
        source, root, size, limit, patch, seeds = SETS[name]
        root = None if root is None else options.data
        images = load_images(source.replace("DATA", options.data), root, size, limit)
        for method in options.methods:
            row = measure(images, method, patch, range(seeds))
            result["rows"][f"{name} {method}"] = {"set": name, "method": method, "patch_size": patch, **row}
            print(line(name, method, row), flush=True)
            result["machine"] = describe_machine("cpu", ("torch", "timm", "numpy", "scipy"), __file__)
            result["machine"]["cpu_features"] = cpu_features()
            options.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(images: ImageSet, method: str, patch: int, seeds: range) -> dict[str, Any]:
    """Accuracy in percent untrained and trained, by seed, with the gain."""
    config = preset("quick", method=method).with_values({"model.patch_size": patch, "optim.precision": "fp32"})
    scores: dict[str, list[float]] = {"untrained": [], "trained": []}
    seconds, cpu_seconds, losses, problems = [], [], [], []
    for seed in seeds:
        training = Training(config, images, seed=seed, device=torch.device("cpu"))
        scores["untrained"].append(score(training, images, seed))
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in training.epochs():
            pass
        trained = training.result()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        scores["trained"].append(score(training, images, seed))
        losses.append(trained.history[-1]["train_loss"])
        problems.append(trained.training_problem)
    gains = [b - a for a, b in zip(scores["untrained"], scores["trained"], strict=True)]
    return {
        "ratio": training.config.masking.ratio,
        "train_images": len(images.indices("train")),
        "test_images": len(images.indices("test")),
        "evaluation": evaluation_of(config, len(images.indices("test"))),
        "epochs": training.config.optim.epochs,
        "steps": training.config.optim.epochs * training.batches.steps,  # type: ignore[operator]
        "seeds": len(seeds),
        **scores,
        "pool": config.model.pool,
        "untrained_mean": statistics.mean(scores["untrained"]),
        "trained_mean": statistics.mean(scores["trained"]),
        "gain": statistics.mean(gains),
        "gain_lower_bound": lower_bound(gains),
        "train_loss": losses,
        "training_problems": problems,
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(cpu_seconds),  # of training alone, on one thread
    }


def score(training: Training, images: ImageSet, seed: int) -> float:
    """Accuracy in percent, as the confirm phase of a study measures it."""
    if evaluation_of(training.config, len(images.indices("test"))) == "split":
        return 100 * linear_probe(training.result(), images).test_accuracy
    features = extract_features(training.result(), images)
    return 100 * crossval_linear_probe(features, images, seed=seed, repeats=FOLD_REPEATS).test_accuracy


def lower_bound(gains: list[float]) -> float:
    """One-sided 95 % bound of the mean."""
    error = statistics.stdev(gains) / len(gains) ** 0.5
    return statistics.mean(gains) - float(student.ppf(0.95, len(gains) - 1)) * error


def line(name: str, method: str, row: dict[str, Any]) -> str:
    """The row as it is printed."""
    return (
        f"{name:16} {method:5} {row['seeds']} seeds  {row['steps']:5} steps  untrained {row['untrained_mean']:5.1f}  "
        f"trained {row['trained_mean']:5.1f}  gain {row['gain']:5.1f} (lower bound {row['gain_lower_bound']:5.1f})  "
        f"loss {np.mean(row['train_loss']):.3f}  {row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s CPU)"
    )


def cpu_features() -> list[str]:
    """Instruction sets that decide the speed and the rounding of matrix products."""
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return []
    return [flag for flag in known if flag in flags]


if __name__ == "__main__":
    main()
