"""Time of the fast linear probe and of k-NN on cached features, beside scikit-learn, in alternation.

    python benchmarks/probes.py                 # 50,000 x 192 features, 10 classes

Made features: classes are Gaussian clouds that overlap, mixed so that features are correlated and of unequal scale.
The linear probe fits its whole grid of strengths to the optimum; scikit-learn fits one strength on the same
standardized features. k-NN answers 2,000 queries for the five reported k at once; scikit-learn's brute force answers
them for one. Peak memory shows that no N x N matrix is made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from components import PeakMemory
from measuring import RESULTS, describe_machine, spread, write_result

from pmae.probes import knn_probe, linear_probe


def made_features(count: int, width: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """float32 (count, width) and labels (count,)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    centers = rng.standard_normal((classes, width))
    x = 0.25 * centers[labels] + rng.standard_normal((count, width)) * np.geomspace(3, 0.1, width)
    return (x @ rng.standard_normal((width, width)) / width**0.5).astype(np.float32), labels


def contenders(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is timed: the probes score 2,000 images of val (and no test)."""
    x, y = made_features(options.images + 2000, options.width)
    cut = options.images
    labels = SimpleNamespace(
        labels=y, class_names=tuple(map(str, range(10))), images=np.empty((len(y), 1, 1, 1), np.uint8),
        indices=lambda split: np.arange(cut) if split == "train" else np.arange(cut, len(y)),
    )  # fmt: skip
    given = {"train": x[:cut], "val": x[cut:]}

    def sklearn_logistic() -> None:
        from sklearn.linear_model import LogisticRegression

        mean, std = x[:cut].mean(0), x[:cut].std(0)
        LogisticRegression(C=100 / cut, max_iter=1000).fit((x[:cut] - mean) / std, y[:cut])

    def sklearn_knn() -> None:
        from sklearn.neighbors import KNeighborsClassifier

        KNeighborsClassifier(20, algorithm="brute").fit(x[:cut], y[:cut]).predict(x[cut:])

    return {
        "linear probe, 11 strengths": lambda: linear_probe(None, labels, features=given, score_test=False),
        "sklearn LogisticRegression, 1 strength": sklearn_logistic,
        "k-NN, 5 values of k": lambda: knn_probe(None, labels, features=given, score_test=False),
        "sklearn KNeighborsClassifier, 1 value of k": sklearn_knn,
    }


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    timed = contenders(options)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in timed}
    for _ in range(options.rounds):
        for name, work in timed.items():
            with PeakMemory() as memory:
                start = time.perf_counter()
                work()
                seconds = time.perf_counter() - start
            runs[name].append({"seconds": seconds, "extra_bytes": memory.extra})
    print(f"{options.images:,} x {options.width}\n{'':44} {'median s':>9} {'fastest':>9} {'slowest':>9} {'MiB':>7}")
    for name, found in runs.items():
        s = spread([r["seconds"] for r in found])
        memory_mib = max(r["extra_bytes"] for r in found) / 2**20
        print(f"{name:44} {s['median']:9.2f} {s['lowest']:9.2f} {s['highest']:9.2f} {memory_mib:7.0f}")
    machine = describe_machine("cpu", ("torch", "numpy", "scikit-learn"), __file__)
    result = {"benchmark": "probes", **machine, "images": options.images, "width": options.width, "runs": runs}
    write_result(result, options.out or RESULTS / "probes-cpu.json")


if __name__ == "__main__":
    main()
