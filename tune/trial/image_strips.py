"""Write the images of the report: reconstructions of confirmed encoders, the components and their spectrum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from pmae.components import PrincipalComponents
from pmae.data import ImageSet
from pmae.reconstruction import LEVELS, reconstruct
from pmae.trainer import PretrainResult
from studies.storage.atomic import write_file
from tune.trial.spec import TrialSpec

IMAGES = 6
EIGENIMAGES = 16
FOLDER = "samples"


def write_strip(folder: Path, spec: TrialSpec, result: PretrainResult, images: ImageSet) -> None:
    """Write reconstructions of a few validation images, and their candidate, to ``samples/<trial id>.npz``."""
    path = folder / FOLDER / f"{spec.trial_id}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    candidate = {"label": spec.label, **spec.candidate_columns()}
    if spec.config.masking.strategy == "sampled":
        candidate["ratio"] = None
    arrays = {f"{spec.trial_id}/{name}": array for name, array in strip(result, images).items()}
    arrays[f"{spec.trial_id}/candidate"] = np.array(json.dumps(candidate))
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def strip(result: PretrainResult, images: ImageSet, count: int = IMAGES) -> dict[str, np.ndarray]:
    """``original, visible, completed`` (uint8) and ``error`` (float32, completed minus original, in levels over 255)
    of ``count`` validation images from as many classes as possible, each (n, H, W, C).
    """
    chosen = _one_per_class(images, count)
    pixels = torch.from_numpy(np.array(images.images[chosen]))
    rebuilt = reconstruct(result.model, pixels, result.statistics, result.config, result.seed)
    levels = {"visible": rebuilt.visible, "completed": rebuilt.completed}
    return {
        "original": pixels.numpy(),
        **{name: _channels_last(part.round().clamp(0, LEVELS)).astype(np.uint8) for name, part in levels.items()},
        "error": _channels_last((rebuilt.completed - rebuilt.original) / LEVELS),
    }


def _one_per_class(images: ImageSet, count: int) -> np.ndarray:
    """Indices of ``count`` validation images: the first of every class, then the second, and so on."""
    rows = np.asarray(images.indices("val"))
    labels = np.asarray(images.labels)[rows]
    rank = np.zeros(len(rows), dtype=int)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        rank[own] = np.arange(len(own))
    return np.asarray(rows[np.lexsort((labels, rank))[:count]])


def merge_samples(folder: Path, components: PrincipalComponents | None) -> None:
    """Gather the trials' strips, the first components as images and the spectrum in ``samples.npz``."""
    arrays: dict[str, np.ndarray] = {}
    for path in sorted((folder / FOLDER).glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            arrays |= {name: stored[name] for name in stored.files}
    if components is not None:
        first = np.asarray(components.components[:, :EIGENIMAGES]).T.reshape(-1, *components.shape)
        arrays["eigenimages"] = np.moveaxis(first, 1, 3)
        arrays["spectrum"] = np.asarray(components.explained_variance_ratio)
    if arrays:
        write_file(folder / "samples.npz", lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _channels_last(x: torch.Tensor) -> np.ndarray:
    pixels: np.ndarray = x.permute(0, 2, 3, 1).float().cpu().numpy()
    return pixels
