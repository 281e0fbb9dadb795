"""What masks that groups of images share cost and save: time of a step, accuracy and its noise over seeds.

    python benchmarks/shared_masks.py steps --cifar10 parquet:/path/to/folder       # 5 minutes on one core
    python benchmarks/shared_masks.py accuracy --set digits --seeds 20              # 20 minutes
    python benchmarks/shared_masks.py accuracy --set mnist --root npz:/path/to/mnist.npz --limit 4000 --patch 7

PMAE at 20 % with the quick recipe, one mask per image, per group of 8 or 16, and per batch (of 32). Times are CPU
seconds of one thread, and the ways alternate step by step or trial by trial. An encoder is scored as in recipes.py;
differences to one mask per image are paired by seed, with the 95 % interval of a t distribution.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks.measuring import RESULTS, describe_machine, paired_ratio, spread
from benchmarks.recipes import cpu_features, score
from pmae.components import PrincipalComponents
from pmae.components.bases import fit_basis
from pmae.config import PretrainConfig, preset
from pmae.data import ImageSet, load_images
from pmae.training.loop import Training
from tune.trial.spec import evaluation_of

CPU = torch.device("cpu")
WAYS: dict[str, dict[str, Any]] = {
    "image": {},
    "group of 8": {"masking.per": "group", "masking.group_size": 8},
    "group of 16": {"masking.per": "group", "masking.group_size": 16},
    "batch": {"masking.per": "batch"},
}
WARM_UP = 2  # steps


def quick(patch: int, **values: Any) -> PretrainConfig:
    """The recipe."""
    config = preset("quick").with_values({"model.patch_size": patch, "optim.precision": "fp32"})
    return config.with_values({name.replace("__", "."): value for name, value in values.items()})


def time_steps(
    config: PretrainConfig, images: ImageSet, components: PrincipalComponents, rounds: int
) -> dict[str, Any]:
    """CPU milliseconds of a step each way, one step of every way in each round."""
    runs = {way: _steps(config.with_values(values), images, components) for way, values in WAYS.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    masked: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds + WARM_UP):
        for way, steps in runs.items():
            spent, share = next(steps)
            if turn >= WARM_UP:
                seconds[way].append(1e3 * spent)
                masked[way].append(share)
    return {
        "batch": config.optim.batch_size,
        "patch_size": config.model.patch_size,
        "pixel_values": components.mean.size,
        "rounds": rounds,
        "masked_columns": {way: statistics.mean(shares) for way, shares in masked.items()},
        "milliseconds": {way: spread(spent) for way, spent in seconds.items()},
        "times_as_fast": {way: _ratios(seconds["image"], spent) for way, spent in seconds.items() if way != "image"},
    }


def _steps(config: PretrainConfig, images: ImageSet, components: PrincipalComponents) -> Iterator[tuple[float, float]]:
    """Seconds of a step, without the images' crops, and the masked share of the columns, step after step."""
    training = Training(config, images, components, seed=0, device=CPU)
    masks, ratios = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    epoch = 0
    while True:
        for pixels in training.batches.epoch(epoch):
            start = time.process_time()
            share = _step(training, pixels, masks, ratios)
            yield time.process_time() - start, share
        epoch += 1


def _step(training: Training, pixels: Tensor, masks: torch.Generator, ratios: torch.Generator) -> float:
    draw = training.masks.draw(len(pixels), masks, ratios, training.batches.shard)
    training._step(pixels, draw, 1e-4)
    return float(draw.mask.double().mean())


def _ratios(plain: list[float], ours: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles([a / b for a, b in zip(plain, ours, strict=True)], n=4)
    return {**paired_ratio(plain, ours), "lower_quartile": low, "upper_quartile": high}


def run_trial(config: PretrainConfig, images: ImageSet, components: PrincipalComponents, seed: int) -> dict[str, float]:
    """Accuracy in percent of one encoder, its last training loss, and CPU seconds of training."""
    training = Training(config, images, components, seed=seed, device=CPU)
    start = time.process_time()
    for _ in training.epochs():
        pass
    seconds = time.process_time() - start
    loss = training.history[-1]["train_loss"]
    return {"seed": seed, "accuracy": score(training, images, seed), "train_loss": loss, "cpu_seconds": seconds}


def summarize(trials: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation each way over the seeds that all have, and the paired differences to ``image``."""
    common = common_seeds(trials)
    seeds = len(common)
    found = {}
    plain = _columns(trials["image"], common)
    for way, each in trials.items():
        ours = _columns(each, common)
        row: dict[str, Any] = {"mean": statistics.mean(ours["accuracy"]), "sd": statistics.stdev(ours["accuracy"])}
        row |= {"train_loss": statistics.mean(ours["train_loss"]), "cpu_seconds": spread(ours["cpu_seconds"])}
        if way != "image":
            differences = [a - b for a, b in zip(ours["accuracy"], plain["accuracy"], strict=True)]
            half = float(student.ppf(0.975, seeds - 1)) * statistics.stdev(differences) / seeds**0.5
            mean = statistics.mean(differences)
            row["difference"] = {"mean": mean, "low": mean - half, "high": mean + half}
            row["times_as_fast"] = paired_ratio(plain["cpu_seconds"], ours["cpu_seconds"])
        found[way] = row
    return found


def common_seeds(trials: dict[str, list[dict[str, float]]]) -> list[float]:
    """Seeds that were trained in every way."""
    return sorted(set.intersection(*({trial["seed"] for trial in each} for each in trials.values())))


def _columns(trials: list[dict[str, float]], seeds: list[float]) -> dict[str, list[float]]:
    of_seed = {trial["seed"]: trial for trial in trials}
    return {name: [of_seed[seed][name] for seed in seeds] for name in trials[0]}


def measure_steps(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Digits and, where its images are given, CIFAR-10."""
    tasks = [("digits, 8 px", load_images("digits"), quick(2), 10)]
    if options.cifar10:
        cifar10 = load_images(options.cifar10, None, 32, 4000)
        tasks += [(f"CIFAR-10, 32 px, batch {n}", cifar10, quick(4, optim__batch_size=n), 1) for n in (32, 128)]
    components: dict[str, PrincipalComponents] = {}
    for name, images, config, times in tasks:
        if images.fingerprint not in components:
            components[images.fingerprint] = fit_basis("pca", images)
        result["steps"][name] = time_steps(config, images, components[images.fingerprint], options.rounds * times)
        print(name, json.dumps(result["steps"][name], indent=1), flush=True)
        write(result, options.out)


def measure_accuracy(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """All ways with one seed after the other, after those that the results hold already; written after every trial."""
    images = load_images(options.root or options.set, None, None, options.limit)
    components = fit_basis("pca", images)
    row = result["accuracy"].setdefault(options.set, {"trials": {way: [] for way in options.ways}})
    evaluation = evaluation_of(quick(options.patch), len(images.indices("test")))
    row |= {"patch_size": options.patch, "train_images": len(images.indices("train")), "evaluation": evaluation}
    for seed in range(options.seeds):
        for way, trials in row["trials"].items():
            if any(trial["seed"] == seed for trial in trials):
                continue
            trials.append(run_trial(quick(options.patch).with_values(WAYS[way]), images, components, seed))
            print(options.set, seed, way, trials[-1], flush=True)
            row["seeds"] = len(common_seeds(row["trials"]))
            if row["seeds"] > 1:
                row["ways"] = summarize(row["trials"])
            write(result, options.out)


def write(result: dict[str, Any], path: Path) -> None:
    """Write the results and a description of the machine to the JSON file."""
    machine = describe_machine("cpu", ("torch", "timm", "numpy", "scipy"), __file__)
    result["machine"] = {**machine, "cpu_features": cpu_features()}
    path.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Measure one part and merge it into the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["steps", "accuracy"])
    parser.add_argument("--rounds", type=int, default=40, help="steps of each way, ten times as many of digits")
    parser.add_argument("--cifar10", help="source of CIFAR-10's images, see pmae.data.load_images")
    parser.add_argument("--set", default="digits", help="name of the images in the results")
    parser.add_argument("--root", help="their source, where that is not their name")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="the first one is image")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "shared-masks.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result = {"benchmark": "shared_masks", "steps": {}, "accuracy": {}, **result}
    (measure_steps if options.part == "steps" else measure_accuracy)(options, result)


if __name__ == "__main__":
    main()
