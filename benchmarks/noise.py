"""Where the noise of an accuracy comes from, and what shrinks it (Bouthillier et al. 2021).

    python benchmarks/noise.py                                        # digits, about 20 minutes on one core
    python benchmarks/noise.py --cifar10 parquet:/path/to/folder      # CIFAR-10 as well, about 25 minutes more

One source of randomness is varied at a time while all others keep their seed: initialization, order of the images,
crops and flips, masks, folds of the probe. The test images are not drawn but resampled. Then everything is varied
together, as the seeds of a study do, and the paired differences between ratios are compared under several ways to
score an encoder. Prints Markdown tables and writes benchmarks/results/noise.json.

The recipe is an argument (``--digits-recipe '{"optim.epochs": 40}'`` changes values of the quick preset), so that the
tables can be made again when the preset changes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring import RESULTS, describe_machine, write_result
from scipy.special import stdtrit
from tables import noise as markdown

import pmae.trainer
import pmae.training.loader
import pmae.training.loop
from pmae.components.bases import fit_basis
from pmae.config import PretrainConfig, preset
from pmae.data import ImageSet, load_images
from pmae.probes import extract_pools
from pmae.probes.crossval import assign_folds, predict_out_of_fold
from pmae.probes.features import SPLITS, attach_labels
from pmae.probes.linear import fit_and_choose

# Source -> purposes of the seeded generators that it consists of.
SOURCES = {
    "initialization": ("initialisation", "initialization"),
    "order": ("order",),
    "crops": ("augmentation",),
    "masks": ("masks", "ratios"),
}
DEFAULT_RATIO = 0.20
RATIOS = (0.10, 0.20, 0.35, 0.55)
POOLS = ("cls", "mean", "concat")
MARGIN, RUNGS, ALPHA = 0.01, 7, 0.05
DIGITS_RECIPE = {"model.patch_size": 2}
CIFAR10_RECIPE = {"model.patch_size": 4, "model.pool": "mean"}

Scores = dict[str, np.ndarray]  # way to score -> share of correct predictions (n,) of every scored image


@dataclass(frozen=True)
class Task:
    """What is trained: images, settings without the ratio, and the sizes of the experiment."""

    name: str
    images: ImageSet
    config: PretrainConfig
    components: Any
    levels: int
    component_ratios: tuple[float, ...]  # ratios at which sources are varied one at a time

    @property
    def sources(self) -> list[str]:
        """Sources that the recipe draws from."""
        data = self.config.data
        crops = data.flip or tuple(data.crop_scale) != (1.0, 1.0)
        return [source for source in SOURCES if source != "crops" or crops]


@contextmanager
def seeds_replaced(seeds: Mapping[str, int]) -> Iterator[None]:
    """Training draws from another seed for the sources in ``seeds``: source -> seed.

    Raises:
        RuntimeError: Training did not ask for a source by the names in ``SOURCES``.
    """
    name, original = "seeded_generator", pmae.training.loader.seeded_generator
    by_purpose = {purpose: seed for source, seed in seeds.items() for purpose in SOURCES[source]}
    asked: set[str] = set()

    def replaced(device: Any, seed: int, *rest: Any) -> torch.Generator:
        purpose = rest[-1]
        asked.add(purpose)
        return original(device, by_purpose.get(purpose, seed), *rest)

    with mock.patch.object(pmae.training.loader, name, replaced), mock.patch.object(pmae.training.loop, name, replaced):
        yield
    missing = [source for source in seeds if not asked.intersection(SOURCES[source])]
    if missing:
        raise RuntimeError(f"training drew nothing for {', '.join(missing)}; SOURCES has outdated names")


class AveragedWeights:
    """Mean of the encoder's weights over the last quarter of the epochs."""

    def __init__(self, epochs: int) -> None:
        self.first, self.count, self.total = epochs - max(1, epochs // 4), 0, {}  # type: ignore[var-annotated]

    def __call__(self, record: Mapping[str, Any], model: Any) -> None:
        """Add the weights after an epoch."""
        if record["epoch"] < self.first:
            return
        self.count += 1
        for name, value in model.encoder.state_dict().items():
            self.total[name] = self.total.get(name, 0) + value.double()

    def encoder(self, encoder: Any) -> Any:
        """A copy of ``encoder`` with the averaged weights."""
        averaged = copy.deepcopy(encoder)
        averaged.vit.load_state_dict({name: total / self.count for name, total in self.total.items()})
        return averaged


def run_trial(
    task: Task, ratio: float, seed: int, seeds: Mapping[str, int], fold_seeds: tuple[int, ...], thorough: bool
) -> tuple[Scores, float]:
    """Train one encoder and score it in several ways; also the loss of the last epoch.

    Args:
        task: What is trained.
        ratio: Masked share of the variance.
        seed: Seed of everything that is not in ``seeds``.
        seeds: Source -> its own seed.
        fold_seeds: Cross-validate with each of these seeds; the first one is the trial's.
        thorough: Score in all ways instead of two.
    """
    averaged = AveragedWeights(task.config.optim.epochs)
    with seeds_replaced(seeds):
        result = pmae.trainer.pretrain(
            task.config.with_values({"masking.ratio": ratio}), task.images, task.components, seed=seed,
            on_epoch=averaged, device="cpu",
        )  # fmt: skip
    pools = extract_pools(result, task.images, pools=POOLS, device="cpu")
    labels = np.concatenate([task.images.labels[task.images.indices(split)] for split in SPLITS])

    def folds(features: Mapping[str, np.ndarray], fold_seed: int, repeat: int = 0) -> np.ndarray:
        x = torch.from_numpy(np.concatenate([features[split] for split in SPLITS]))
        y = torch.from_numpy(labels)
        return (predict_out_of_fold(x, y, assign_folds(labels, 5, fold_seed, repeat))[0] == y).double().numpy()

    pool = task.config.model.pool
    own = pools[pool]
    scores = {"split": _split(own, task.images)}
    for fold_seed in fold_seeds[1:]:
        scores[f"folds, seed {fold_seed}"] = folds(own, fold_seed)
    first = fold_seeds[0]
    scores["folds"] = folds(own, first)
    if thorough:
        scores["folds, 3 repeats"] = np.mean([scores["folds"], *(folds(own, first, r) for r in (1, 2))], axis=0)
        if pool == "mean":
            by_token = folds(pools["cls"], first)
            scores["folds, mean of cls and mean probe"] = (scores["folds"] + by_token) / 2
            scores["folds, cls and mean concatenated"] = folds(pools["concat"], first)
        else:
            scores |= {f"folds, {other} alone": folds(pools[other], first) for other in ("cls", "mean")}
        features = extract_pools(averaged.encoder(result.encoder), task.images, pools=(pool,), device="cpu")
        scores["folds, averaged weights"] = folds(features[pool], first)
        scores["split, averaged weights"] = _split(features[pool], task.images)
    return scores, result.history[-1]["train_loss"]


def stored_trial(folder: Path | None, task: Task, *settings: Any) -> tuple[Scores, float]:
    """:func:`run_trial`, or its result from ``folder`` if an interrupted run has already stored it there."""
    if folder is None:
        return run_trial(task, *settings)
    identity = repr((task.config.hash(), task.images.fingerprint, settings))
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        scores, loss = run_trial(task, *settings)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path.with_suffix(".part.npz"), loss=loss, **scores)
        path.with_suffix(".part.npz").rename(path)
    with np.load(path) as stored:
        return {way: stored[way] for way in stored.files if way != "loss"}, float(stored["loss"])


def _split(features: Mapping[str, np.ndarray], images: ImageSet) -> np.ndarray:
    data = attach_labels(features, images, SPLITS, "cpu")
    path, best, _ = fit_and_choose(data)
    return (path.predict(data["test"].x, best) == data["test"].y).double().numpy()


def measure(task: Task, folder: Path | None = None) -> dict[str, Any]:
    """Run all trials of a task, except those stored in ``folder``, and estimate the components of the variance."""
    start, losses = time.perf_counter(), []

    def trial(what: str, *settings: Any) -> Scores:
        scores, loss = stored_trial(folder, task, *settings)
        losses.append(loss)
        accuracy = ", ".join(f"{way} {100 * scores[way].mean():.2f}" for way in ("split", "folds"))
        print(f"{task.name} {time.perf_counter() - start:5.0f} s  {what}: {accuracy}, loss {loss:.3f}", flush=True)
        return scores

    levels = range(1, task.levels + 1)
    together = {
        ratio: [trial(f"ratio {ratio}, seed {seed}", ratio, seed, {}, (seed,), True) for seed in levels]
        for ratio in RATIOS
    }
    alone: dict[str, dict[float, list[Scores]]] = {source: {} for source in task.sources}
    of_folds: dict[float, list[Scores]] = {}
    for ratio in task.component_ratios:
        base = trial(f"ratio {ratio}, folds", ratio, 0, {}, tuple(range(task.levels + 1)), False)
        of_folds[ratio] = [{"split": base["split"], "folds": base[f"folds, seed {seed}"]} for seed in levels]
        for source in task.sources:
            alone[source][ratio] = [
                trial(f"ratio {ratio}, {source} {seed}", ratio, 0, {source: seed}, (0,), False) for seed in levels
            ]
    seconds = time.perf_counter() - start
    varied = {**alone, "folds": of_folds, "all together": {r: together[r] for r in task.component_ratios}}
    sizes = {split: len(task.images.indices(split)) for split in SPLITS}
    differences = [
        paired(together[DEFAULT_RATIO], together[ratio], way, ratio)
        for way in together[DEFAULT_RATIO][0]
        for ratio in RATIOS
        if ratio != DEFAULT_RATIO
    ]
    return {
        "name": task.name,
        "images": sizes,
        "config": task.config.to_dict(),
        "steps": task.config.optim.epochs * max(1, sizes["train"] // task.config.optim.batch_size),
        "levels": task.levels,
        "seeds": {"fixed": 0, "varied": list(levels)},
        "seconds": seconds,
        "trials": len(losses),
        "losses": losses,
        "components": components(varied, task.component_ratios),
        "differences": differences,
        "accuracies": {
            str(ratio): {way: [float(s[way].mean()) for s in trials] for way in trials[0]}
            for ratio, trials in together.items()
        },
        "by_split": {str(ratio): _out_of_fold_by_split(trials, sizes) for ratio, trials in together.items()},
        "power": [power(way, differences) for way in together[DEFAULT_RATIO][0]],
    }


def components(
    varied: Mapping[str, Mapping[float, list[Scores]]], ratios: tuple[float, ...]
) -> dict[str, dict[str, float]]:
    """Source -> column -> standard deviation in points; columns are way and ratio, or way and "difference"."""
    table: dict[str, dict[str, float]] = {}
    for source, by_ratio in varied.items():
        table[source] = {}
        for way in ("split", "folds"):
            means = {ratio: np.array([s[way].mean() for s in by_ratio[ratio]]) for ratio in ratios}
            for ratio in ratios:
                table[source][f"{way} {ratio}"] = 100 * float(np.std(means[ratio], ddof=1))
            if len(ratios) > 1:
                table[source][f"{way} difference"] = 100 * float(np.std(means[ratios[1]] - means[ratios[0]], ddof=1))
    together, table["test images"] = varied["all together"], {}
    for way in ("split", "folds"):
        correct = {ratio: np.array([s[way] for s in together[ratio]]) for ratio in ratios}
        for ratio in ratios:
            table["test images"][f"{way} {ratio}"] = _sampling_error(correct[ratio])
        if len(ratios) > 1:
            table["test images"][f"{way} difference"] = _sampling_error(correct[ratios[1]] - correct[ratios[0]])
    return table


def _sampling_error(values: np.ndarray) -> float:
    """Error of a mean over images from drawing these images, in points: what a bootstrap of the images converges to."""
    return 100 * float(np.sqrt((values.var(1) / values.shape[1]).mean()))


def paired(default: list[Scores], other: list[Scores], way: str, ratio: float) -> dict[str, Any]:
    """Paired difference to the default over seeds, and its two-way analysis of variance (seeds x images), in points.

    ``encoder`` is the part of the paired standard deviation that more images would not shrink, ``encoder_x_image`` the
    part that they would. ``image`` is common to all seeds: more seeds do not shrink it, and no interval over seeds
    shows it.
    """
    d = np.array([b[way] - a[way] for a, b in zip(default, other, strict=True)])
    seeds, images = d.shape
    by_seed, by_image = d.mean(1), d.mean(0)
    residual = d - by_seed[:, None] - by_image + d.mean()
    interaction = (residual**2).sum() / ((seeds - 1) * (images - 1))
    variance = by_seed.var(ddof=1)
    return {
        "way": way,
        "ratio": ratio,
        "mean": 100 * float(d.mean()),
        "sd": 100 * float(np.sqrt(variance)),
        "encoder": 100 * float(np.sqrt(max(0.0, variance - interaction / images))),
        "encoder_x_image": 100 * float(np.sqrt(interaction / images)),
        "image": 100 * float(np.sqrt(max(0.0, (by_image.var(ddof=1) - interaction / seeds) / images))),
    }


def _out_of_fold_by_split(trials: list[Scores], sizes: Mapping[str, int]) -> dict[str, float]:
    """Mean out-of-fold accuracy on the images of each split: the encoder has been trained on those of train."""
    ends = np.cumsum([0, *sizes.values()])
    correct = np.mean([s["folds"] for s in trials], axis=0)
    return {split: 100 * float(correct[ends[i] : ends[i + 1]].mean()) for i, split in enumerate(sizes)}


def power(way: str, differences: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of studies in which a flat ladder holds, from the paired standard deviation pooled over the ratios."""
    sd = float(np.sqrt(np.mean([row["sd"] ** 2 for row in differences if row["way"] == way])))
    enough = next((n for n in range(2, 101) if flat_ladder_holds(sd / 100, n, repeats=4000) >= 0.8), None)
    return {
        "way": way, "paired_sd": sd, "holds_5": flat_ladder_holds(sd / 100, 5),
        "holds_10": flat_ladder_holds(sd / 100, 10), "seeds_for_80": enough,
    }  # fmt: skip


def flat_ladder_holds(paired_sd: float, seeds: int, repeats: int = 20_000) -> float:
    """Share of studies where every rung's upper bound of "rung minus default" is below the margin and all are equal.

    Student bounds at 5 % with the residual variance of seeds and rungs pooled; independent normal noise.
    """
    rng = np.random.default_rng([seeds, round(1e6 * paired_sd)])
    held = 0
    for start in range(0, repeats, 1000):
        count = min(1000, repeats - start)
        accuracy = rng.standard_normal((count, seeds, RUNGS)) * paired_sd / np.sqrt(2)
        rungs = accuracy.mean(1)
        residual = accuracy - accuracy.mean(2, keepdims=True) - rungs[:, None] + rungs.mean(1)[:, None, None]
        freedom = (seeds - 1) * (RUNGS - 1)
        error = np.sqrt(2 * (residual**2).sum((1, 2)) / freedom / seeds)
        upper = (rungs[:, 1:] - rungs[:, :1]).max(1) + stdtrit(freedom, 1 - ALPHA) * error
        held += int((upper < MARGIN).sum())
    return held / repeats


def make_task(
    name: str, source: str, recipe: Mapping[str, Any], levels: int, ratios: tuple[float, ...], limit: int | None
) -> Task:
    """Images, resolved settings and fitted components."""
    images = load_images(source, limit=limit)
    config = preset("quick", name).with_values(recipe)
    config = replace(config, data=replace(config.data, dataset=source, limit=limit))
    config = config.resolve(images.image_size, images.channels, len(images.indices("train")))
    return Task(name, images, config, fit_basis(config.masking.basis, images), levels, ratios)


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits-recipe", type=json.loads, default=DIGITS_RECIPE, metavar="JSON")
    parser.add_argument("--digits-levels", type=int, default=10, help="seeds per source; 0 leaves digits out")
    parser.add_argument("--cifar10", metavar="SOURCE", help="source of CIFAR-10, for example parquet:/path/to/folder")
    parser.add_argument("--cifar10-recipe", type=json.loads, default=CIFAR10_RECIPE, metavar="JSON")
    parser.add_argument("--cifar10-levels", type=int, default=5)
    parser.add_argument("--cifar10-images", type=int, default=2000, help="images in each of train, val and test")
    parser.add_argument("--trials", type=Path, help="folder for finished trials; a later run resumes there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "noise.json", help="data sets already there are kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = json.loads(options.out.read_text()) if options.out.exists() else {"benchmark": "noise", "data_sets": {}}
    tasks = []
    if options.digits_levels:
        tasks.append(
            lambda: make_task("digits", "digits", options.digits_recipe, options.digits_levels, (0.20, 0.35), None)
        )
    if options.cifar10:
        tasks.append(
            lambda: make_task(
                "cifar10", options.cifar10, options.cifar10_recipe, options.cifar10_levels, (0.20,),
                options.cifar10_images,
            )
        )  # fmt: skip
    for make in tasks:
        task = make()
        machine = describe_machine("cpu", ("torch", "numpy", "timm", "scikit-learn"), __file__)
        machine["cpu_features"] = torch.backends.cpu.get_cpu_capability()
        result["data_sets"][task.name] = {**machine, **measure(task, options.trials)}
        write_result(result, options.out)
    print(markdown(result))


if __name__ == "__main__":
    main()
