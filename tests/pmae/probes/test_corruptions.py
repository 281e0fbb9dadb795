"""Corruptions: shape and type kept, stronger with severity, repeatable, and each what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from skimage import data

from pmae.errors import ConfigError
from pmae.probes import corruption_probe, extract_features, linear_probe
from pmae.probes.corruptions import CORRUPTIONS, corrupt


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """uint8 (3, 32, 32, 3): pieces of a real photograph."""
    cat = Image.fromarray(data.chelsea()).resize((96, 32))
    return np.stack([np.asarray(cat)[:, x : x + 32] for x in (0, 32, 64)])


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_corruption_keeps_shape_and_grows_with_severity(photos, name, channels):
    images = photos[..., :channels]
    before = images.copy()
    results = [corrupt(images, name, severity, seed=1) for severity in (1, 3, 5)]
    assert np.array_equal(images, before)
    assert all(r.shape == images.shape and r.dtype == np.uint8 for r in results)
    errors = [np.square(r.astype(float) - images).mean() for r in results]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert np.array_equal(corrupt(images, name, 3, seed=1), results[1])


def test_noise_depends_on_the_seed_and_has_the_stated_deviation():
    gray = np.full((50, 16, 16, 1), 128, np.uint8)
    noisy = corrupt(gray, "gaussian_noise", 5, seed=0)
    assert noisy.std() / 255 == pytest.approx(0.10, rel=0.05)
    assert not np.array_equal(noisy, corrupt(gray, "gaussian_noise", 5, seed=1))


def test_contrast_keeps_the_mean_and_scales_the_deviation(photos):
    flat = corrupt(photos, "contrast", 2).astype(float)
    assert np.allclose(flat.mean((1, 2)), photos.mean((1, 2)), atol=0.5)
    assert flat.std((1, 2)) == pytest.approx(photos.std((1, 2)) / 2, rel=0.03)


def test_brightness_raises_the_value_and_keeps_the_hue(photos):
    dark = photos // 2
    before, after = (rgb_to_hsv(i / 255) for i in (dark, corrupt(dark, "brightness", 5)))
    colored = (before[..., 1] > 0.2) & (before[..., 2] > 0.2)
    assert np.allclose(after[..., 2] - before[..., 2], 0.3, atol=0.005)
    assert np.abs(after[..., 0] - before[..., 0])[colored].max() < 0.03
    assert np.array_equal(corrupt(np.zeros((1, 4, 4, 3), np.uint8), "brightness", 2), np.full((1, 4, 4, 3), 26))


def test_unknown_names_and_severities_are_refused(photos):
    with pytest.raises(ConfigError, match=r"corruption is 'blurr'; allowed are gaussian_noise, .* jpeg"):
        corrupt(photos, "blurr")
    with pytest.raises(ConfigError, match="severity is 6"):
        corrupt(photos, "jpeg", 6)


def test_it_scores_the_clean_probe_on_corrupted_images(digits, encoder):
    features = extract_features(encoder, digits)
    result = corruption_probe(encoder, digits, features=features, severity=5)
    clean = linear_probe(encoder, digits, features=features)
    assert result.details["val_clean"] == clean.val_accuracy and result.details["test_clean"] == clean.test_accuracy
    assert list(result.details["val_by_corruption"]) == list(CORRUPTIONS)
    assert result.test_accuracy == pytest.approx(np.mean(list(result.details["test_by_corruption"].values())))
    assert result.val_accuracy < clean.val_accuracy
    mild = corruption_probe(encoder, digits, features=features, severity=1, corruptions=["contrast"], score_test=False)
    assert mild.test_accuracy is None and mild.val_accuracy > result.details["val_by_corruption"]["contrast"]
