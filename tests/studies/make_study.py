"""Write a believable study to disk, through the same writer that a real one uses, without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.records import StudyWriter

PEAK = {"pmae": 0.25, "mae": 0.6}
RATIOS = {"pmae": (0.1, 0.2, 0.3, 0.5), "mae": (0.5, 0.75, 0.9)}
EPOCHS = 12


def make_study(
    storage: Path,
    name: str = "digits-quick",
    *,
    dataset: str = "digits",
    patch_sizes: Sequence[int] = (2, 4),
    seeds: int = 4,
    explored: int = 12,
    losses: bool = True,
    samples: bool = True,
    planned: int | None = None,
) -> Path:
    """A study of both methods: ``explored`` trials per method and patch size, then every ratio with ``seeds`` seeds.

    ``losses`` adds a failed, a diverged, a pruned and an interrupted trial; ``samples`` the pictures' arrays.
    """
    folder = storage / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = [*_explore(dataset, patch_sizes, explored), *_confirm(dataset, patch_sizes, seeds)]
    rows += _losses(dataset, patch_sizes[0]) if losses else []
    writer = StudyWriter(folder, name)
    writer.add_trials(rows)
    writer.add_history(epoch for row in rows for epoch in _history(row))
    writer.close()
    (folder / "study.json").write_text(json.dumps(_plan(name, dataset, patch_sizes, explored, seeds, planned)))
    if samples:
        np.savez(folder / "samples.npz", **_samples())
    return folder


def accuracy(method: str, ratio: float, patch_size: int) -> float:
    """The truth behind the trials: an inverted U over the ratio, a little lower for larger patches."""
    top = {"pmae": 0.93, "mae": 0.90}[method] - 0.01 * math.log2(patch_size)
    return top - 0.35 * (ratio - PEAK[method]) ** 2 * (1 + 0.2 * patch_size)


def trial(
    dataset: str, phase: str, method: str, ratio: float, patch_size: int, seed: int, **more: Any
) -> dict[str, Any]:
    """One finished trial's row."""
    noise = np.random.default_rng([seed, patch_size, round(1000 * ratio), method == "mae", phase == "confirm"])
    paired = np.random.default_rng([seed, 99]).normal(0, 0.01)  # a seed is lucky or not at every ratio alike
    value = accuracy(method, ratio, patch_size) + paired
    config = {
        "data": {"source": dataset, "seed": 0},
        "masking": {"method": method, "ratio": ratio},
        "model": {"patch_size": patch_size, "width": 64, "depth": 4},
        "optim": {"epochs": EPOCHS, "batch_size": 128},
    }
    row = {
        "trial_id": f"{phase}-{method}-{ratio:.4f}-p{patch_size}-s{seed}",
        "phase": phase,
        "dataset": dataset,
        "method": method,
        "strategy": "fixed" if method == "pmae" else "random",
        "basis": "pca" if method == "pmae" else None,
        "ratio": ratio,
        "achieved_ratio": ratio + noise.normal(0, 0.002),
        "patch_size": patch_size,
        "patch_stride": patch_size,
        "mask_unit": patch_size if method == "mae" else None,
        "seed": seed,
        "status": "done",
        "epochs": EPOCHS,
        "val_linear": value + noise.normal(0, 0.006),
        "val_knn": value - 0.03 + noise.normal(0, 0.006),
        "train_loss": 0.2 + 0.5 * ratio,
        "images_per_second": 2400.0 + noise.normal(0, 60),
        "seconds": 7.5 + noise.normal(0, 0.3),
        "started_at": f"2026-03-01T10:{seed % 60:02d}:00+00:00",
        "config": config,
        "config_hash": f"{abs(hash((method, ratio, patch_size))):016x}"[:16],
        "code_version": "0.1.0",
        "device": "cpu",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"},
        "peak_memory_bytes": 310_000_000,
        "train_images": 1257,
    }
    if phase == "confirm":
        row["test_linear"] = value - 0.005 + noise.normal(0, 0.006)
        row["test_knn"] = row["val_knn"] - 0.005
    return row | more


def _explore(dataset: str, patch_sizes: Sequence[int], count: int) -> Iterator[dict[str, Any]]:
    draw = np.random.default_rng(7)
    for method in PEAK:
        for patch_size in patch_sizes:
            fixed = [0.2 if method == "pmae" else 0.75]
            low, high = (0.05, 0.6) if method == "pmae" else (0.4, 0.95)
            for ratio in [*fixed, *draw.uniform(low, high, max(count - 1, 0))][:count]:
                yield trial(dataset, "explore", method, float(ratio), patch_size, 1)


def _confirm(dataset: str, patch_sizes: Sequence[int], seeds: int) -> Iterator[dict[str, Any]]:
    for method, ratios in RATIOS.items():
        for patch_size in patch_sizes:
            for ratio in ratios:
                for seed in range(100, 100 + seeds):
                    yield trial(dataset, "confirm", method, ratio, patch_size, seed)


def _losses(dataset: str, patch_size: int) -> list[dict[str, Any]]:
    nothing = {"val_linear": None, "val_knn": None, "train_loss": None}
    errors = {
        "failed": "OutOfMemoryError: 2.1 GiB asked, 1.4 GiB free; try a smaller batch_size",
        "diverged": "the training loss became nan at step 31 (epoch 2)",
        "interrupted": "stopped by the user",
    }
    rows = [
        trial(dataset, "explore", "pmae", 0.4, patch_size, 50 + i, status=status, error=error, epochs=2, **nothing)
        for i, (status, error) in enumerate(errors.items())
    ]
    return [*rows, trial(dataset, "explore", "mae", 0.9, patch_size, 60, status="pruned", epochs=4)]


def _history(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": row["trial_id"],
            "seed": row["seed"],
            "epoch": epoch,
            "train_loss": 0.2 + 0.5 * row["ratio"] + math.exp(-epoch / 4) + 0.01 * math.sin(row["seed"] + epoch),
            "learning_rate": 1e-3 * min(1, (epoch + 1) / 2) * math.cos(epoch / EPOCHS * math.pi / 2),
            "images_per_second": row["images_per_second"],
            "val_linear": row["val_linear"] - 0.3 * math.exp(-epoch / 3)
            if epoch % 4 == 3 and row["val_linear"]
            else None,
        }
        for epoch in range(row["epochs"])
    ]


def _plan(
    name: str, dataset: str, patch_sizes: Sequence[int], explored: int, seeds: int, planned: int | None
) -> dict[str, Any]:
    settings = len(PEAK) * len(patch_sizes)
    confirm = seeds * len(patch_sizes) * sum(map(len, RATIOS.values()))
    return {
        "schema_version": 1,
        "name": name,
        "created_at": "2026-03-01T09:58:00+00:00",
        "dataset": {
            "source": dataset, "name": dataset, "train": 1257, "val": 144, "test": 396,
            "image_size": 8, "channels": 1, "classes": 10,
        },
        "methods": ["pmae", "mae"],
        "space": {"ratio": {"pmae": [0.05, 0.6], "mae": [0.4, 0.95]}, "patch_size": list(patch_sizes)},
        "search": "tpe",
        "phases": {
            "explore": {"planned": planned or explored * settings + 4, "seeds": [1]},
            "confirm": {"planned": confirm, "seeds": list(range(100, 100 + seeds))},
        },
        "margin": 0.01,
        "default_ratio": 0.2,
        "mae_default_ratio": 0.75,
        "epochs": EPOCHS,
        "config": {"data": {"source": dataset, "seed": 0}, "optim": {"epochs": EPOCHS, "batch_size": 128}},
        "command": f"python tune/masking_ratio_study.py --dataset {dataset} --patch-sizes 2 4",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0", "optuna": "5.0.0"},
        "code_version": "0.1.0",
        "device": "cpu",
        "resources": {"cpus": 2, "gpus": 0, "max_concurrent": 2},
    }  # fmt: skip


def _samples() -> dict[str, np.ndarray]:
    """Real digits, their real principal components, and a 'prediction' that is a noisy target."""
    from sklearn.datasets import load_digits

    draw = np.random.default_rng(0)
    pixels = load_digits().data / 16
    mean = pixels.mean(0)
    _, values, rows = np.linalg.svd(pixels - mean, full_matrices=False)
    share = values**2 / (values**2).sum()
    chosen = pixels[[0, 11, 22, 33]]
    hidden = np.zeros(64, bool)
    order = draw.permutation(64)
    hidden[order[: np.searchsorted(share[order].cumsum(), 0.2)]] = True
    target = (chosen - mean) @ rows[hidden].T @ rows[hidden]
    as_images = {
        "original": chosen,
        "visible": chosen - target,
        "prediction": target + draw.normal(0, 0.04, target.shape),
        "target": target,
    }
    arrays = {name: np.float32(value).reshape(4, 8, 8, 1) for name, value in as_images.items()}
    for name in ("original", "visible"):
        arrays[name] = np.uint8(np.clip(255 * arrays[name], 0, 255))
    return arrays | {"eigenimages": np.float32(rows[:16]).reshape(16, 8, 8, 1), "spectrum": share}
