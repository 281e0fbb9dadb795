"""Small real images for the tests of the method: scikit-learn's digits, gray and colored."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pmae.config import PretrainConfig


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """uint8 (300, 8, 8, 1)."""
    return (load_digits().images[:300] / 16 * 255).round().astype(np.uint8)[..., None]


@pytest.fixture(scope="session")
def color_digits(digits: np.ndarray) -> np.ndarray:
    """uint8 (100, 16, 16, 3): four digits a picture, each channel shifted by its own row."""
    tiles = digits.reshape(-1, 2, 2, 8, 8)[:100] if len(digits) >= 400 else None
    if tiles is None:
        tiles = np.concatenate([digits, digits[:100]]).reshape(-1, 2, 2, 8, 8)
    gray = tiles.transpose(0, 1, 3, 2, 4).reshape(-1, 16, 16)
    return np.stack([np.roll(gray, k, axis=1) for k in range(3)], axis=-1)


@pytest.fixture
def tiny() -> PretrainConfig:
    """A model that trains an epoch on ``digits`` in a tenth of a second."""
    return PretrainConfig.from_dict(
        {
            "data": {"crop_scale": [0.6, 1.0], "flip": False},
            "model": {"patch_size": 2, "width": 16, "depth": 1, "heads": 2,
                      "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
            "optim": {"epochs": 3, "batch_size": 64, "learning_rate": 4e-3},
        }
    )  # fmt: skip
