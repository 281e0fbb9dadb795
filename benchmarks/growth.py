"""How cost grows with images, image size and trials: ``python benchmarks/growth.py`` draws and writes it.

Each curve is measured at doubling sizes, smallest first, all curves in turn, several rounds; the slope of log seconds
over log size is printed (1 is linear, 2 quadratic). k-NN is asked by a fixed number of queries.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from components import made_images
from measuring import RESULTS, describe_machine, write_result
from probes import made_features

Work = Callable[[int], Callable[[], Any]]


def components_over_images(count: int) -> Callable[[], Any]:
    """Fit the components of ``count`` gray 16-px images."""
    from pmae.components import PrincipalComponents

    images = made_images(count, 16)[..., :1]
    return lambda: PrincipalComponents.fit(images)


def knn_over_images(count: int) -> Callable[[], Any]:
    """1,000 queries among ``count`` features."""
    import torch

    from pmae.probes.knn import predict

    x, y = (torch.from_numpy(a) for a in made_features(count + 1000, 64))
    return lambda: predict(x[1000:], y[1000:], x[:1000], (20,))


def epoch_over_images(count: int) -> Callable[[], Any]:
    """One epoch of the quick model on ``count`` gray 8-px images."""
    return _epoch(count, 8, 4)


def epoch_over_pixels(side: int) -> Callable[[], Any]:
    """One epoch on 256 gray images of ``side`` px, 16 patches each."""
    return _epoch(256, side, side // 4)


def _epoch(count: int, side: int, patch_size: int) -> Callable[[], Any]:
    from pmae.config import preset
    from pmae.trainer import pretrain

    images = made_images(count, side)[..., :1].copy()
    config = preset("quick", "digits", "mae").with_values({"optim.epochs": 1, "optim.warmup_epochs": 0.0})
    return lambda: pretrain(config.with_values({"model.patch_size": patch_size}), images, seed=0)


def records_over_trials(count: int) -> Callable[[], Any]:
    """Write ``count`` records one by one, each on disk before the next, and read the table."""
    from studies.records import StudyWriter, read_study

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            with StudyWriter(Path(folder) / "s", "s") as writer:
                for n in range(count):
                    writer.add_trial(_row(n))
            read_study(Path(folder) / "s")

    return work


def verdict_over_trials(count: int) -> Callable[[], Any]:
    """Judge a table of ``count`` confirmed trials (20 seeds)."""
    import pyarrow as pa

    from studies.records import TRIAL_SCHEMA
    from studies.verdict import judge

    started = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    blank = {name: None for name in TRIAL_SCHEMA.names} | {"study": "s"}
    rows = [blank | _row(n) | {"started_at": started} for n in range(count)]
    table = pa.Table.from_pylist(rows, schema=TRIAL_SCHEMA)
    return lambda: judge(table)


def _row(n: int) -> dict[str, Any]:
    """Trial ``n`` of a study whose data sets have 5 ratios and 20 seeds each."""
    dataset, ratio, seed = n // 100, (0.1, 0.2, 0.3, 0.4, 0.5)[n // 20 % 5], n % 20
    accuracy = 0.8 + 0.01 * math.sin(n)
    return {
        "trial_id": f"t{n}", "phase": "confirm", "dataset": f"set{dataset}", "method": "pmae", "strategy": "fixed",
        "ratio": ratio, "achieved_ratio": ratio, "patch_size": 4, "patch_stride": 4, "basis": "pca", "pool": "mean",
        "seed": seed, "status": "done", "epochs": 9, "val_linear": accuracy, "test_linear": accuracy,
        "val_knn": accuracy, "test_knn": accuracy, "train_loss": 0.5, "images_per_second": 100.0, "seconds": 1.0,
        "started_at": "2026-01-01T00:00:00+00:00", "config": "{}", "config_hash": "0", "code_version": "0",
        "device": "cpu", "versions": "{}",
    }  # fmt: skip


CURVES: dict[str, tuple[Work, tuple[int, ...], str]] = {
    "components over images": (components_over_images, (4096, 8192, 16384, 32768), "images"),
    "k-NN over images": (knn_over_images, (8192, 16384, 32768, 65536), "images"),
    "an epoch over images": (epoch_over_images, (1024, 2048, 4096, 8192), "images"),
    "an epoch over pixels": (epoch_over_pixels, (8, 16, 32, 64), "pixels a side"),
    "records over trials": (records_over_trials, (1250, 2500, 5000, 10000), "trials"),
    "verdict over trials": (verdict_over_trials, (400, 800, 1600, 3200), "trials"),
}


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Exponent of the growth, by least squares on the upper three sizes (fixed costs weigh on the smallest)."""
    return float(np.polyfit(np.log(sizes[1:]), np.log(seconds[1:]), 1)[0])


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds over size, one panel per curve, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for panel, (name, curve) in zip(panels.flat, found.items(), strict=True):
        panel.loglog(curve["sizes"], curve["seconds"], "o-", base=2)
        panel.set(title=f"{name}: exponent {curve['exponent']:.2f}", xlabel=curve["unit"], ylabel="seconds")
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    work = {name: {size: make(size) for size in sizes} for name, (make, sizes, _) in CURVES.items()}
    times: dict[str, dict[int, list[float]]] = {n: {s: [] for s in sizes} for n, (_, sizes, _) in CURVES.items()}
    for _ in range(options.rounds):
        for name, by_size in work.items():
            for size, run in by_size.items():
                start = time.perf_counter()
                run()
                times[name][size].append(time.perf_counter() - start)
    found = {}
    for name, (_, sizes, unit) in CURVES.items():
        seconds = [statistics.median(times[name][size]) for size in sizes]
        exponent = slope(sizes, seconds)
        found[name] = {"sizes": sizes, "unit": unit, "seconds": seconds, "exponent": exponent, "runs": times[name]}
        print(
            f"{name:24} {'  '.join(f'{s}: {t:.2f} s' for s, t in zip(sizes, seconds, strict=True))}  ~ n^{exponent:.2f}"
        )
    out = options.out or RESULTS / "growth-cpu.json"
    machine = describe_machine("cpu", ("torch", "numpy", "pyarrow"), __file__)
    write_result({"benchmark": "growth", **machine, "curves": found}, out)
    draw(found, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
