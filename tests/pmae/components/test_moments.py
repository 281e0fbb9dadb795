"""Streamed sums: exact for uint8, whatever the blocks and workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from pmae.components import moments as moments_module
from pmae.components.moments import STD_FLOOR, PixelMoments, TrainingImages
from pmae.errors import DataError
from pmae.training.loader import augment, pixel_statistics

SHAPE = (3, 5, 5)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)


def upper(matrix) -> np.ndarray:
    return np.triu(matrix.numpy())


@pytest.mark.parametrize("int8", [False, True])
def test_products_are_exact_integers(int8, monkeypatch):
    monkeypatch.setattr(moments_module, "cpu_has_vnni", lambda: int8)
    images = random_images(3000)
    images[:1200] = 0  # the largest products, all of one sign
    moments = PixelMoments(SHAPE)
    moments.update(images)
    whole = images.transpose(0, 3, 1, 2).reshape(3000, -1).astype(np.int64) - 128
    assert np.array_equal(upper(moments.products), np.triu(whole.T @ whole))
    assert np.array_equal(moments.sums.numpy(), whole.sum(0))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=4), st.integers(0, 100))
def test_moments_of_parts_add_up_to_those_of_the_whole(sizes, seed):
    images = random_images(sum(sizes) + 1, seed)
    whole, total = PixelMoments(SHAPE), PixelMoments(SHAPE)
    whole.update(images)
    for part in np.split(images, np.cumsum(sizes)):
        total.update(part)
    assert whole.count == total.count
    assert np.array_equal(upper(whole.products), upper(total.products))
    assert np.array_equal(whole.correlation(), total.correlation())


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_the_correlation_is_numpys(kind):
    images = random_images(700).astype(kind)
    data = TrainingImages.of(images)
    moments = data.moments()
    x = images.transpose(0, 3, 1, 2).reshape(700, -1).astype(np.float64)
    np.testing.assert_allclose(moments.correlation(), np.corrcoef(x.T), atol=1e-12)
    for mean, std in (moments.mean_and_std(), data.mean_and_std()):
        np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(std, x.std(0), rtol=1e-12)
    rows = np.concatenate([b.numpy() for b in data.standardized_blocks(*moments.mean_and_std())])
    np.testing.assert_allclose(rows, (x - x.mean(0)) / x.std(0), atol=1e-5)


def test_almost_constant_pixels_are_divided_by_a_floor():
    images = np.zeros((20_000, 2, 2, 1), np.uint8)
    images[7, 1, 1, 0] = 1
    images[:, 0, 0, 0] = np.arange(20_000) % 256
    mean, std = (a.numpy() for a in TrainingImages.of(images).moments().mean_and_std())
    floor = STD_FLOOR * images[:, 0, 0, 0].std() / 2  # of the root mean square over four pixels, one of which varies
    np.testing.assert_allclose(std, [images[:, 0, 0, 0].std(), floor, floor, floor], rtol=1e-6)
    assert mean[3] == pytest.approx(1 / 20_000)
    correlation = TrainingImages.of(images).moments().correlation()
    assert correlation[0, 0] == pytest.approx(1) and not correlation[1:3].any()
    assert correlation[3, 3] == pytest.approx((1 - 1 / 20_000) / 20_000 / floor**2)


def test_constant_floats_are_constant_despite_rounding():
    images = np.full((5000, 2, 2, 1), 0.1)
    assert (TrainingImages.of(images).moments().mean_and_std()[1] == 1).all()
    images[:, 0, 0, 0] = np.random.default_rng(0).random(5000)
    _, std = TrainingImages.of(images).moments().mean_and_std()
    np.testing.assert_allclose(std[1:], STD_FLOOR * std[0] / 2)


def test_training_and_components_divide_by_the_same_deviations():
    images = random_images(300)
    images[:, 0] = 0  # a dark border, but for one pixel of one image
    images[4, 0, 2, 1] = 255
    std = TrainingImages.of(images).moments().mean_and_std()[1].float().view(SHAPE)
    assert np.array_equal(pixel_statistics(images, np.arange(300)).std, std)
    assert float(std.min()) == pytest.approx(STD_FLOOR * np.sqrt(images.astype(float).var(0).mean()))


def test_crops_of_dark_borders_stay_within_bounds():
    digits = (load_digits().images / 16 * 255).round().astype(np.uint8)[..., None]
    mean, std = pixel_statistics(digits, np.arange(len(digits)))
    cropped = augment(torch.from_numpy(digits), torch.Generator().manual_seed(0), (0.3, 1.0), flip=True)
    assert ((cropped - mean) / std).abs().max() < 1 / STD_FLOOR * 4  # 250 without the floor


def test_moments_that_do_not_belong_together_are_refused():
    with pytest.raises(DataError, match="do not belong"):
        PixelMoments(SHAPE).update(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="at least 2 images"):
        PixelMoments(SHAPE).correlation()


def test_training_images_are_distinguished_by_content():
    images = random_images(100)
    changed = images.copy()
    changed[50, 2, 2, 1] ^= 1
    same, other = TrainingImages.of(images.copy()), TrainingImages.of(changed)
    assert TrainingImages.of(images).fingerprint == same.fingerprint != other.fingerprint
