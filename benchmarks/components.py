"""Time and memory of fitting the components, ours against scikit-learn's PCA, in alternation.

    python benchmarks/components.py                                 # 50,000 made images of CIFAR-10's shape
    python benchmarks/components.py --dataset parquet:FOLDER        # real images
    python benchmarks/components.py --large                         # D = 12,288, ours alone

Each measurement is a process of its own that maps the same uint8 images from a file; the clock starts at the images
and ends at the basis. Memory is the peak of the process's anonymous memory above what it had before. The table is
printed and written to benchmarks/results/components-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import RESULTS, describe_machine, write_result


def fit_ours(images: np.ndarray, device: str, folder: Path) -> Any:
    from pmae.components import PrincipalComponents

    return PrincipalComponents.fit(images, device=device)


def load_cached(images: np.ndarray, device: str, folder: Path) -> Any:
    from pmae.components import PrincipalComponents

    return PrincipalComponents.load(folder / "ours.safetensors")


def fit_sklearn(solver: str) -> Callable[[np.ndarray, str, Path], Any]:
    """scikit-learn from the same uint8 images: standardize in float32 as its users do, then PCA."""

    def fit(images: np.ndarray, device: str, folder: Path) -> Any:
        from sklearn.decomposition import PCA

        x = images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float32)
        x -= x.mean(0, dtype=np.float64).astype(np.float32)
        std = x.std(0, dtype=np.float64).astype(np.float32)
        x /= np.where(std > 0, std, 1)
        return PCA(svd_solver=solver).fit(x)

    return fit


CONTENDERS: dict[str, Callable[[np.ndarray, str, Path], Any]] = {
    "ours": fit_ours,
    "ours, from the cache": load_cached,
    "sklearn PCA(svd_solver='covariance_eigh')": fit_sklearn("covariance_eigh"),
    "sklearn PCA(svd_solver='full')": fit_sklearn("full"),
}


class PeakMemory:
    """Largest anonymous memory of this process while the block runs, above what it was before."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = _anonymous_bytes()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def extra(self) -> int:
        return self.peak - self.start

    def _watch(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, _anonymous_bytes())


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def measure(name: str, folder: Path, device: str) -> dict[str, Any]:
    """One measurement in this process; the first of ours is kept for the cache and the comparison."""
    import sklearn.decomposition  # noqa: F401 (imports are not what is measured)
    import torch

    import pmae.components.principal  # noqa: F401

    if device != "cpu":
        torch.linalg.eigh(torch.eye(64, dtype=torch.float64, device=device))  # starts the device's libraries
    images = np.load(folder / "images.npy", mmap_mode="r")
    with PeakMemory() as memory:
        start = time.perf_counter()
        result = CONTENDERS[name](images, device, folder)
        seconds = time.perf_counter() - start
    if name == "ours":
        result.save(folder / "ours.safetensors")
    if name.startswith("sklearn"):
        np.savez(folder / "sklearn.npz", vectors=result.components_.T, ratio=result.explained_variance_ratio_)
    return {"seconds": seconds, "extra_bytes": memory.extra, "load_average": os.getloadavg()[0]}


def agreement(folder: Path) -> dict[str, float]:
    """How far ours and scikit-learn's full PCA (float32) are apart."""
    from pmae.components import PrincipalComponents

    ours, theirs = PrincipalComponents.load(folder / "ours.safetensors"), np.load(folder / "sklearn.npz")
    ratio = ours.explained_variance_ratio[: len(theirs["ratio"])]  # it gives no more than there are images
    v, w = ours.components[:, :50].astype(np.float64), theirs["vectors"][:, :50].astype(np.float64)
    angles = np.sqrt(np.clip(1 - np.linalg.svd(v.T @ w, compute_uv=False) ** 2, 0, 1))
    return {
        "largest_difference_of_variance_ratio": float(np.abs(ratio - theirs["ratio"]).max()),
        "sine_of_largest_angle_between_leading_50": float(angles.max()),
        "orthonormality_error": float(np.abs(v.T @ v - np.eye(50)).max()),
    }


def made_images(count: int, size: int) -> np.ndarray:
    """uint8 (count, size, size, 3) whose spectrum falls like that of photographs (amplitude 1 / frequency)."""
    import scipy.fft

    rng = np.random.default_rng(0)
    amplitude = 1 / (1 + np.hypot(*np.meshgrid(np.arange(size), np.arange(size))))
    images = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, 1000):
        block = rng.standard_normal((min(1000, count - start), size, size, 3), dtype=np.float32)
        block = scipy.fft.idctn(block * amplitude[..., None], axes=(1, 2), norm="ortho")
        images[start : start + 1000] = (block / block.std() * 60 + 120).clip(0, 255)
    return images


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All contenders, one after the other, as many rounds as asked for."""
    images = load(options)
    np.save(folder / "images.npy", images)
    shape = list(images.shape)
    del images
    names = [n for n in CONTENDERS if n.startswith("ours") or not options.large]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names:
            command = [sys.executable, __file__, "--measure", name, "--folder", str(folder), "--device", options.device]
            runs[name].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(f"round {turn + 1}: {name:45} {runs[name][-1]['seconds']:8.2f} s", flush=True)
    return {
        "benchmark": "components",
        **describe_machine(options.device, ("torch", "numpy", "scipy", "scikit-learn"), __file__),
        "images": options.dataset or "made",
        "shape": shape,
        "runs": runs,
        "agreement": {} if options.large else agreement(folder),
    }


def load(options: argparse.Namespace) -> np.ndarray:
    """The images that are fitted, uint8 (N, H, W, C)."""
    if options.dataset is None:
        count, size = (options.images or 100_000, 64) if options.large else (options.images or 50_000, 32)
        return made_images(count, size)
    from pmae.data import load_images

    images = load_images(options.dataset, image_size=64 if options.large else None)
    return images.images[images.indices("train")[: options.images]]


def print_table(result: dict[str, Any]) -> None:
    """Medians with the spread from the fastest to the slowest run."""
    print(f"\n{result['shape']} uint8 on {result['gpu'] or result['cpu']}, {result['cores']} cores")
    print(f"{'':45} {'median s':>9} {'fastest':>9} {'slowest':>9} {'extra GiB':>10}")
    for name, runs in result["runs"].items():
        seconds = [r["seconds"] for r in runs]
        memory = max(r["extra_bytes"] for r in runs) / 2**30
        print(f"{name:45} {statistics.median(seconds):9.2f} {min(seconds):9.2f} {max(seconds):9.2f} {memory:10.2f}")
    for name, value in result["agreement"].items():
        print(f"{name}: {value:.1e}")


def main() -> None:
    """Parse the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a source such as parquet:FOLDER; made images without it")
    parser.add_argument("--images", type=int, help="number of images (default 50,000; 100,000 with --large)")
    parser.add_argument("--large", action="store_true", help="64-px color images: D = 12,288; ours alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options.device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, Path(folder))
    print_table(result)
    name = f"components-{'large-' if options.large else ''}{options.device}.json"
    write_result(result, options.out or RESULTS / name)


if __name__ == "__main__":
    main()
