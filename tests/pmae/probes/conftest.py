"""Digits with fixed splits, and a small untrained encoder for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pmae.config import ModelConfig
from pmae.data.imageset import ImageSet
from pmae.model.encoder import Encoder, build_vit


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    bunch = load_digits()
    images = (bunch.images * 255 / 16).round().astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    return ImageSet(
        images=images,
        labels=bunch.target.astype(np.int64),
        class_names=tuple(map(str, range(10))),
        splits={"train": order[:1000], "val": order[1000:1300], "test": order[1300:]},
        name="digits",
    )


@pytest.fixture(scope="session")
def pixels(digits: ImageSet) -> dict[str, np.ndarray]:
    """Pixels as features: split -> (N, 64)."""
    return {s: digits.images[i].reshape(len(i), -1).astype(np.float32) for s, i in digits.splits.items()}


@pytest.fixture
def encoder(digits: ImageSet) -> Encoder:
    torch.manual_seed(0)
    vit = build_vit(ModelConfig(image_size=8, channels=1, patch_size=4, width=32, depth=2, heads=2))
    train = torch.from_numpy(digits.images[digits.indices("train")]).permute(0, 3, 1, 2).float()
    return Encoder(vit, train.mean(0), train.std(0).clamp(min=32))
