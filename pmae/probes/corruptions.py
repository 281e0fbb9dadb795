"""Accuracy under common corruptions at five severities (Hendrycks & Dietterich 2019).

Severities are those of CIFAR-10-C, which was made for 32-px images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from pmae.config import check_choice
from pmae.errors import ConfigError
from pmae.probes.features import (
    LabeledImages,
    ProbeResult,
    as_encoder,
    attach_labels,
    describe_input,
    extract_features,
    probe_input,
    score,
)
from pmae.probes.linear import fit_and_choose
from pmae.training.loader import OneSplit

Pixels = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.float64]

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Pixels, corruption: str, severity: int = 3, seed: int = 0) -> Pixels:
    """Corrupted copies of uint8 images (N, H, W, C), a function of images and ``seed``; severities are 1 to 5."""
    check_choice("corruption", corruption, list(CORRUPTIONS))
    if severity not in SEVERITIES:
        raise ConfigError(f"severity is {severity!r}; allowed are 1, 2, 3, 4, 5")
    function, parameters = CORRUPTIONS[corruption]
    return function(images, parameters[severity - 1], np.random.default_rng(seed))


def _gaussian_noise(images: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    return _levels(images / 255 + rng.normal(scale=deviation, size=images.shape))


def _gaussian_blur(images: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return _levels(ndimage.gaussian_filter(images / 255, (0, sigma, sigma, 0), mode="nearest"))


def _contrast(images: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    x = images / 255
    mean = x.mean((1, 2), keepdims=True)
    return _levels((x - mean) * factor + mean)


def _brightness(images: Pixels, shift: float, rng: np.random.Generator) -> Pixels:
    """The value of HSV is raised: all channels grow by one factor, so that hue and saturation stay."""
    x = images / 255
    value = x.max(axis=3, keepdims=True)
    raised = np.minimum(value + shift, 1)
    return _levels(np.where(value > 0, x * (raised / np.maximum(value, 1e-12)), raised))


def _pixelate(images: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    size = images.shape[1]
    small = max(1, int(size * share))

    def coarse(image: Image.Image) -> Image.Image:
        return image.resize((small, small), Image.Resampling.BOX).resize((size, size), Image.Resampling.BOX)

    return _one_by_one(images, coarse)


def _jpeg(images: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    def compressed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(quality))
        return Image.open(buffer)

    return _one_by_one(images, compressed)


Corruption = Callable[[Pixels, float, np.random.Generator], Pixels]

CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}


def _levels(x: Levels) -> Pixels:
    return (x.clip(0, 1) * 255).round().astype(np.uint8)


def _one_by_one(images: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    gray = images.shape[3] == 1
    out = np.empty_like(images)
    for i, image in enumerate(images):
        changed = np.asarray(change(Image.fromarray(image[:, :, 0] if gray else image)))
        out[i] = changed[:, :, None] if gray else changed
    return out


def corruption_probe(
    encoder: Any,
    imageset: LabeledImages,
    seed: int = 0,
    *,
    features: Mapping[str, Any] | None = None,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severity: int = 3,
    score_test: bool = True,
    device: str = "auto",
    precision: str = "auto",
) -> ProbeResult:
    """Mean accuracy over corruptions of a linear probe (fast protocol) that has seen clean images only.

    The penalty is chosen on the clean validation split.

    Args:
        encoder, imageset, score_test, device, precision: As for :func:`~pmae.probes.linear.linear_probe`.
        seed: Random seed for the corruptions' noise.
        features: Clean features of the encoder, split -> (N, W), extracted before.
        corruptions: Names out of :data:`CORRUPTIONS`.
        severity: 1 to 5.

    Returns:
        Mean accuracies; ``details`` has ``val_by_corruption``, ``test_by_corruption`` and the clean ones.

    Raises:
        ConfigError: Unknown corruption or severity.
        DataError: Features are not finite, or a split is empty.
    """
    encoder = as_encoder(encoder)
    data, _ = probe_input(encoder, imageset, features, score_test, device, precision)
    path, best, _ = fit_and_choose(data)
    predict = partial(path.predict, index=best)
    clean_scores = score(data, predict)
    by_corruption: dict[str, dict[str, float]] = {split: {} for split in clean_scores}
    for split, scores in by_corruption.items():
        rows = imageset.indices(split)
        clean = np.array(imageset.images[rows])
        for name in corruptions:
            changed = OneSplit(corrupt(clean, name, severity, seed), np.arange(len(rows)))
            x = extract_features(encoder, changed, [split], device=device, precision=precision)
            scores[name] = score(attach_labels(x, imageset, [split], device), predict)[split]
    means = {split: float(np.mean(list(scores.values()))) for split, scores in by_corruption.items()}
    details = {
        "protocol": "corruptions",
        **describe_input(data, encoder.pool),
        "severity": severity,
        "penalty": path.penalties[best],
        **{f"{split}_by_corruption": scores for split, scores in by_corruption.items()},
        **{f"{split}_clean": value for split, value in clean_scores.items()},
    }
    return ProbeResult(means["val"], means.get("test"), details)
