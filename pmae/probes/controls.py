"""What a trained encoder has to beat: the same encoder without training, and raw pixels, for the same probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pmae.config import PretrainConfig
from pmae.devices import pick_device
from pmae.model.encoder import Encoder
from pmae.probes.features import SPLITS, LabeledImages
from pmae.training.loader import PixelStatistics, pixel_statistics
from pmae.training.loop import Training

if TYPE_CHECKING:
    from pmae.components import PrincipalComponents
    from pmae.training.loader import Images

BLOCK = 4096


def untrained_encoder(
    config: PretrainConfig,
    images: Images | np.ndarray,
    components: PrincipalComponents | None = None,
    *,
    seed: int,
    device: str = "auto",
) -> Encoder:
    """The encoder with which ``pretrain(config, images, components, seed=seed)`` starts, ready for probes.

    Weights are those of the run's initialization, and pixels are standardized as in the run. The masking has no
    influence: all ratios of PMAE and of MAE with the same ``config.model`` and seed start from the same encoder.

    Args:
        config, images, components, seed, device: As for :func:`~pmae.trainer.pretrain`.
    """
    return Training(config, images, components, seed=seed, device=pick_device(device)).result().encoder


def pixel_features(
    images: LabeledImages, splits: Sequence[str] = SPLITS, statistics: PixelStatistics | None = None
) -> dict[str, np.ndarray]:
    """Standardized raw pixels as features: split -> float32 (N, C * H * W), in the order of ``images.indices(split)``.

    Args:
        images: Image set; splits that are not named are not read, except train for the statistics.
        splits: Names of the splits.
        statistics: Mean and standard deviation of every pixel; None computes those of the train split.
    """
    if statistics is None:
        statistics = pixel_statistics(images.images, images.indices("train"))
    features = {}
    for split in splits:
        indices = images.indices(split)
        features[split] = np.empty((len(indices), int(np.prod(images.images.shape[1:]))), np.float32)
        for start in range(0, len(indices), BLOCK):
            pixels = torch.from_numpy(np.array(images.images[indices[start : start + BLOCK]]))
            standardized = (pixels.permute(0, 3, 1, 2).float() - statistics.mean) / statistics.std
            features[split][start : start + BLOCK] = standardized.flatten(1).numpy()
    return features
