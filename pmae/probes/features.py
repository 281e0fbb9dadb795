"""Frozen features with their labels as every probe reads them, what a probe returns, and the features of controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pmae.components import PrincipalComponents
from pmae.config import POOLS, PretrainConfig, check_choice
from pmae.devices import autocast_dtype, pick_device
from pmae.errors import ConfigError, DataError
from pmae.model.encoder import Encoder
from pmae.training.loader import Images, pixel_statistics
from pmae.training.loop import Training

SPLITS = ("train", "val", "test")
PIXEL_BLOCK = 4096


class LabeledImages(Images, Protocol):
    """What a probe needs of an image set (``pmae.data.ImageSet`` is one)."""

    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        val_accuracy: Fraction of the validation split classified correctly.
        test_accuracy: The same for the test split; None when it was not scored.
        details: Protocol, settings chosen and how; JSON types only.
    """

    val_accuracy: float
    test_accuracy: float | None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Labeled:
    """Features (N, W) float32 and labels (N,) int64 of one split, on one device."""

    x: Tensor
    y: Tensor


def extract_features(
    encoder: Any,
    imageset: Images,
    splits: Sequence[str] = SPLITS,
    pool: str | None = None,
    batch_size: int = 512,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, np.ndarray]:
    """Features of some splits: split name -> float32 (N, W), in the order of ``imageset.indices(split)``.

    Args:
        encoder: An :class:`~pmae.model.Encoder`, or a result that has one as ``.encoder``; it is not changed.
        imageset: Images of the encoder's size and channels.
        splits: Names of the splits to read; others are not touched.
        pool: ``cls``, ``mean`` or ``concat``; None takes the encoder's own.
        batch_size: Images encoded at once.
        device: ``auto`` is the GPU where there is one.
        precision: ``bf16`` (autocast), ``fp32``, or ``auto``: bf16 where the device is faster with it.

    Raises:
        DataError: The images do not fit the encoder, or a feature is not finite.
        ConfigError: Unknown pool or precision, or ``encoder`` is not an encoder.
    """
    encoder = as_encoder(encoder)
    pool = encoder.pool if pool is None else pool
    return extract_pools(encoder, imageset, splits, (pool,), batch_size, device, precision)[pool]


def extract_pools(
    encoder: Any,
    imageset: Images,
    splits: Sequence[str] = SPLITS,
    pools: Sequence[str] = ("cls", "mean"),
    batch_size: int = 512,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, dict[str, np.ndarray]]:
    """:func:`extract_features` for several poolings in one pass: pool -> split -> float32 (N, W)."""
    encoder = as_encoder(encoder)
    for pool in pools:
        check_choice("pool", pool, POOLS)
    check_choice("precision", precision, ("auto", "fp32", "bf16"))
    check_images(encoder, imageset.images)
    where = pick_device(device)
    out: dict[str, dict[str, np.ndarray]] = {pool: {} for pool in pools}
    with eval_mode(encoder, where), torch.inference_mode(), autocast(encoder, where, precision):
        for split in splits:
            indices = imageset.indices(split)
            for pool in pools:
                out[pool][split] = np.empty((len(indices), encoder.feature_width(pool)), np.float32)
            for start in range(0, len(indices), batch_size):
                pixels = read_images(imageset.images, indices[start : start + batch_size]).to(where)
                features = encoder.features(encoder.standardize(pixels), pools)
                for pool in pools:
                    out[pool][split][start : start + batch_size] = features[pool].float().cpu().numpy()
    return out


def probe_input(
    encoder: Any,
    imageset: LabeledImages,
    features: Mapping[str, np.ndarray] | None,
    score_test: bool,
    device: str,
    precision: str,
) -> tuple[dict[str, Labeled], str]:
    """Features with labels of the splits that a probe reads, extracted unless they are given, and their pooling."""
    splits = SPLITS if score_test else SPLITS[:2]
    pool = "given"
    if features is None:
        pool = as_encoder(encoder).pool
        features = extract_features(encoder, imageset, splits, pool, device=device, precision=precision)
    return attach_labels(features, imageset, splits, device), pool


def check_labeled(imageset: LabeledImages) -> None:
    """DataError if the images have no labels."""
    if not getattr(imageset, "is_labeled", True):
        raise DataError("the images have no labels, so there is nothing to probe; load them with labels")


def attach_labels(
    features: Mapping[str, np.ndarray], imageset: LabeledImages, splits: Sequence[str], device: str
) -> dict[str, Labeled]:
    """Features of ``splits`` with their labels, on ``device``; DataError if they do not fit or are not finite."""
    check_labeled(imageset)
    where = pick_device(device)
    data = {}
    for split in splits:
        if split not in features:
            raise DataError(f"features hold {', '.join(features)} but not the split {split!r}; extract it too")
        x, y = np.asarray(features[split], np.float32), np.asarray(imageset.labels)[imageset.indices(split)]
        if len(x) != len(y):
            raise DataError(f"there are {len(x)} features for the {len(y)} images of the {split} split")
        if not len(x):
            raise DataError(f"the {split} split holds no images; a probe needs some in each split it reads")
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        if bad:
            raise DataError(
                f"the features of {bad} of {len(x)} {split} images are not finite; the encoder's training diverged, so "
                "train it again with a lower learning rate"
            )
        data[split] = Labeled(torch.tensor(x, device=where), torch.tensor(y, dtype=torch.int64, device=where))
    return data


def describe_input(data: Mapping[str, Labeled], pool: str) -> dict[str, Any]:
    """What every probe's details say of its input."""
    images = {split: len(part.y) for split, part in data.items()}
    return {"pool": pool, "width": data["train"].x.shape[1], "images": images}


def score(data: Mapping[str, Labeled], predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Accuracy of ``predict``, from features (N, W) to labels (N,), on each split but train."""
    return {split: accuracy(predict(part.x), part.y) for split, part in data.items() if split != "train"}


def index_of_best(accuracies: Sequence[float], losses: Sequence[float]) -> int:
    """Index of the highest accuracy; ties: of the lowest cross-entropy, then the first."""
    return min(range(len(accuracies)), key=lambda i: (-accuracies[i], losses[i]))


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Fraction of ``predicted`` (N,) equal to ``labels`` (N,)."""
    return (predicted == labels).double().mean().item()


def as_encoder(encoder: Any) -> Encoder:
    """``encoder`` itself, or the one that a pre-training result carries."""
    found = encoder if isinstance(encoder, Encoder) else getattr(encoder, "encoder", None)
    if not isinstance(found, Encoder):
        raise ConfigError(
            f"encoder is a {type(encoder).__name__}; give an Encoder: pretrain(...).encoder or load_encoder(folder)"
        )
    return found


def autocast(encoder: Encoder, device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast when ``precision`` is ``bf16``, or ``auto`` where the device is faster with it at this width."""
    dtype = autocast_dtype(precision, device, encoder.width)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def read_images(images: np.ndarray, indices: np.ndarray) -> Tensor:
    """uint8 images (B, H, W, C) at ``indices``, copied out of the (possibly read-only) memory map."""
    return torch.from_numpy(np.array(images[indices], order="C"))


def check_images(encoder: Encoder, images: np.ndarray) -> None:
    """Refuse images of another size or with other channels than the encoder's."""
    size, channels = encoder.image_size, encoder.channels
    if tuple(images.shape[1:]) != (size, size, channels):
        raise DataError(
            f"the images are {images.shape[1]} x {images.shape[2]} px with {images.shape[3]} channel(s), the encoder "
            f"was trained on {size} x {size} px with {channels}; load them with --image-size {size}, or "
            "choose the dataset it was trained on"
        )


@contextmanager
def eval_mode(encoder: Encoder, device: torch.device) -> Iterator[None]:
    """The encoder in evaluation mode on ``device``, put back afterwards."""
    training, home = encoder.training, encoder.mean.device
    encoder.eval().to(device)
    try:
        yield
    finally:
        encoder.train(training).to(home)


def untrained_encoder(
    config: PretrainConfig,
    images: Images | np.ndarray,
    components: PrincipalComponents | None = None,
    *,
    seed: int,
    device: str = "auto",
) -> Encoder:
    """The encoder with which ``pretrain`` of these arguments starts, the same for all ratios and methods."""
    return Training(config, images, components, seed=seed, device=pick_device(device)).result().encoder


def pixel_features(images: Images, splits: Sequence[str] = SPLITS) -> dict[str, np.ndarray]:
    """Pixels, standardized by the train split: split -> float32 (N, C * H * W), in the order of ``indices(split)``."""
    statistics = pixel_statistics(images.images, images.indices("train"))
    features = {}
    for split in splits:
        indices = images.indices(split)
        blocks = np.split(indices, range(PIXEL_BLOCK, len(indices), PIXEL_BLOCK))
        pixels = (read_images(images.images, rows).permute(0, 3, 1, 2).float() for rows in blocks)
        standardized = [((x - statistics.mean) / statistics.std).flatten(1) for x in pixels]
        features[split] = torch.cat(standardized).numpy()
    return features
