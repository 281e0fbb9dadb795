"""Write a believable study to disk, through the same writer that a real one uses, without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.records import StudyWriter, read_study
from studies.verdict import judge

LADDERS = {"pmae": (0.05, 0.1, 0.2, 0.35, 0.55, 0.75, 0.9), "mae": (0.25, 0.5, 0.75, 0.875)}
DEFAULTS = {"pmae": 0.2, "mae": 0.75}
# Test accuracies over the ratio and of the untrained encoder as measured on digits, patch 2 (VALIDITY.md).
TRUTH = {
    "pmae": ((0.05, 0.1, 0.2, 0.35, 0.55, 0.75, 0.9), (0.756, 0.751, 0.759, 0.753, 0.706, 0.679, 0.671)),
    "mae": ((0.25, 0.5, 0.75, 0.875), (0.637, 0.671, 0.669, 0.651)),
}
CONTROLS = {"untrained": 0.596, "pixels": 0.958}
MARGIN, EPOCHS, NOISE, LUCK = 0.01, 25, 0.006, 0.01


def make_study(
    storage: Path,
    name: str = "digits-quick",
    *,
    dataset: str = "digits",
    patch_sizes: Sequence[int] = (2, 4),
    seeds: int = 5,
    explored: int = 12,
    losses: bool = True,
    samples: bool = True,
    planned: int | None = None,
    judged: bool = False,
    noise: float = NOISE,
) -> Path:
    """A study of both methods: ``explored`` trials per method and patch size, a ladder at the first patch size with
    ``seeds`` seeds, and controls.

    ``losses`` adds a failed, a diverged, a pruned and an interrupted trial; ``samples`` the pictures' arrays;
    ``judged`` a ``verdict.json``.
    """
    folder = storage / name
    folder.mkdir(parents=True, exist_ok=True)
    patch_size = patch_sizes[0]
    confirmed = [
        trial(dataset, "confirm", method, ratio, patch_size, seed, noise=noise)
        for method, ladder in LADDERS.items()
        for ratio in ladder
        for seed in range(100, 100 + seeds)
    ]
    controls = [control(dataset, method, patch_size, seed) for method in CONTROLS for seed in range(100, 100 + seeds)]
    rows = [*_explore(dataset, patch_sizes, explored), *confirmed, *controls]
    rows += _losses(dataset, patch_size) if losses else []
    writer = StudyWriter(folder, name)
    writer.add_trials(rows)
    writer.add_history(epoch for row in rows if row["ratio"] for epoch in _history(row))
    writer.close()
    (folder / "study.json").write_text(json.dumps(_plan(name, dataset, patch_sizes, explored, seeds, planned)))
    if samples:
        np.savez(folder / "samples.npz", **_samples())
    if judged:
        (folder / "verdict.json").write_text(json.dumps(judge(read_study(folder)).to_dict()))
    return folder


def accuracy(method: str, ratio: float, patch_size: int) -> float:
    """The truth behind the trials, a little lower for larger patches."""
    return float(np.interp(ratio, *TRUTH[method])) - 0.01 * math.log2(patch_size / 2)


def control(dataset: str, method: str, patch_size: int, seed: int) -> dict[str, Any]:
    """A control's row; raw pixels have neither patches nor weights."""
    noise = np.random.default_rng([seed, method == "pixels"]).normal(0, 0.004)
    row = trial(dataset, "confirm", "pmae", 0.2, patch_size, seed)
    for name in ("ratio", "achieved_ratio", "achieved_sd", "strategy", "basis", "train_loss", "images_per_second"):
        row[name] = None
    value = CONTROLS[method] + noise
    row |= {"method": method, "phase": "control", "trial_id": f"control-{method}-s{seed}", "epochs": 0}
    row |= {"val_linear": value, "test_linear": value, "val_knn": value, "test_knn": value, "seconds": 0.6}
    return row | ({"patch_size": None, "patch_stride": None} if method == "pixels" else {})


def trial(
    dataset: str, phase: str, method: str, ratio: float, patch_size: int, seed: int, noise: float = NOISE, **more: Any
) -> dict[str, Any]:
    """One finished trial's row."""
    draw = np.random.default_rng([seed, patch_size, round(1000 * ratio), method == "mae", phase == "confirm"])
    paired = np.random.default_rng([seed, 99]).normal(0, LUCK)  # a seed is lucky or not at every ratio alike
    value = accuracy(method, ratio, patch_size) + paired
    config = {
        "data": {"source": dataset, "seed": 0},
        "masking": {"method": method, "ratio": ratio},
        "model": {"patch_size": patch_size, "width": 64, "depth": 2, "decoder_width": 64, "decoder_depth": 1},
        "optim": {"epochs": EPOCHS, "batch_size": 128, "learning_rate": 4e-3},
    }
    row = {
        "trial_id": f"{phase}-{method}-{ratio:.4f}-p{patch_size}-s{seed}",
        "phase": phase,
        "dataset": dataset,
        "method": method,
        "strategy": "fixed" if method == "pmae" else "random",
        "basis": "pca" if method == "pmae" else None,
        "ratio": ratio,
        "achieved_ratio": ratio + (draw.normal(0, 0.002) if method == "pmae" else 0.0),
        "achieved_sd": 0.01,
        "patch_size": patch_size,
        "patch_stride": patch_size,
        "mask_unit": patch_size if method == "mae" else None,
        "seed": seed,
        "status": "done",
        "epochs": EPOCHS,
        "val_linear": value + draw.normal(0, noise),
        "val_knn": value - 0.03 + draw.normal(0, noise),
        "evaluation": "folds" if phase == "confirm" else "split",
        "train_loss": 0.3 + 0.4 * ratio,
        "objective": 0.4 + 0.5 * ratio,
        "training_problem": "",
        "precision": "fp32",
        "images_per_second": 2400.0 + draw.normal(0, 60),
        "seconds": 7.5 + draw.normal(0, 0.3),
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
        row["test_linear"] = value + draw.normal(0, noise)
        row["test_knn"] = row["val_knn"] - 0.005
    return row | more


def _explore(dataset: str, patch_sizes: Sequence[int], count: int) -> Iterator[dict[str, Any]]:
    draw = np.random.default_rng(7)
    for method in LADDERS:
        for patch_size in patch_sizes:
            fixed = [0.2 if method == "pmae" else 0.75]
            low, high = (0.05, 0.9) if method == "pmae" else (0.25, 0.9)
            for ratio in [*fixed, *draw.uniform(low, high, max(count - 1, 0))][:count]:
                yield trial(dataset, "explore", method, float(ratio), patch_size, 1)


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
            "train_loss": 0.3 + 0.4 * row["ratio"] + 0.7 * math.exp(-epoch / 5) + 0.01 * math.sin(row["seed"] + epoch),
            "objective": 0.4 + math.exp(-epoch / 5),
            "learning_rate": 1e-3 * min(1, (epoch + 1) / 2) * math.cos(epoch / EPOCHS * math.pi / 2),
            "images_per_second": row["images_per_second"],
        }
        for epoch in range(row["epochs"])
    ]


def _plan(
    name: str, dataset: str, patch_sizes: Sequence[int], explored: int, seeds: int, planned: int | None
) -> dict[str, Any]:
    settings = len(LADDERS) * len(patch_sizes)
    confirm = seeds * sum(map(len, LADDERS.values()))
    return {
        "schema_version": 2,
        "name": name,
        "created_at": "2026-03-01T09:58:00+00:00",
        "dataset": {
            "source": dataset, "name": dataset, "train": 1257, "val": 144, "test": 396,
            "image_size": 8, "channels": 1, "classes": 10,
        },
        "methods": ["pmae", "mae"],
        "space": {"ratio": {"pmae": [0.05, 0.9], "mae": [0.25, 0.9]}, "patch_size": list(patch_sizes)},
        "search": "tpe",
        "phases": {
            "explore": {"planned": planned or explored * settings + 4, "seeds": [1]},
            "confirm": {"planned": confirm, "seeds": list(range(100, 100 + seeds))},
            "control": {"planned": len(CONTROLS) * seeds, "seeds": list(range(100, 100 + seeds))},
        },
        "ladder": {method: list(ladder) for method, ladder in LADDERS.items()},
        "looks": None,
        "margin": MARGIN,
        "default_ratio": 0.2,
        "mae_default_ratio": 0.75,
        "epochs": EPOCHS,
        "config": {
            "data": {"source": dataset, "seed": 0, "crop_scale": [0.6, 1.0], "flip": False},
            "masking": {"method": "pmae", "strategy": "expected", "per": "image", "loss": "components"},
            "model": {"width": 64, "depth": 2, "decoder_width": 64, "decoder_depth": 1},
            "optim": {"epochs": EPOCHS, "batch_size": 128, "learning_rate": 4e-3, "warmup_epochs": 2.5,
                      "weight_decay": 0.05, "betas": [0.9, 0.95]},
            "probe": {"protocol": "fast"},
        },
        "command": f"python tune/masking_ratio_study.py --dataset {dataset} --patch-sizes 2 4",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0", "optuna": "5.0.0"},
        "code_version": "0.1.0",
        "device": "cpu",
        "resources": {"concurrent": 2, "threads": 1, "workers": 1, "gpus": 0.0},
    }  # fmt: skip


def _samples() -> dict[str, np.ndarray]:
    """Real digits, their real principal components, and a 'prediction' that is a noisy target."""
    from sklearn.datasets import load_digits

    draw = np.random.default_rng(0)
    pixels = load_digits().data / 16
    mean = pixels.mean(0)
    _, values, rows = np.linalg.svd(pixels - mean, full_matrices=False)
    share = values**2 / (values**2).sum()
    chosen = pixels[[0, 11, 22, 33, 44, 55]]
    hidden = np.zeros(64, bool)
    order = draw.permutation(64)
    hidden[order[: np.searchsorted(share[order].cumsum(), 0.2)]] = True
    target = (chosen - mean) @ rows[hidden].T @ rows[hidden]
    strips = {}
    for method, ratio, spread in (("pmae", 0.2, 0.04), ("mae", 0.75, 0.12)):
        label = f"{method} r={ratio:.2f} p=2"
        candidate = {"label": label, "method": method, "ratio": ratio, "patch_size": 2}
        strips[f"{label}/candidate"] = np.array(json.dumps(candidate))
        completed = np.clip(chosen + draw.normal(0, spread, target.shape), 0, 1)
        parts = {"original": chosen, "visible": np.clip(chosen - target, 0, 1), "completed": completed}
        strips |= {f"{label}/{name}": np.uint8(255 * v).reshape(-1, 8, 8, 1) for name, v in parts.items()}
        strips[f"{label}/error"] = np.float32(completed - chosen).reshape(-1, 8, 8, 1)
    return strips | {"eigenimages": np.float32(rows[:16]).reshape(16, 8, 8, 1), "spectrum": share}
