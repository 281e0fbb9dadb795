"""PSNR and SSIM against scikit-image, and full reconstructions against their definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pmae.components import PrincipalComponents
from pmae.config import MaskingConfig
from pmae.errors import ConfigError
from pmae.reconstruction import psnr, reconstruct, reconstruction_quality, ssim
from pmae.trainer import pretrain


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A real photograph and a noisy copy, (2, 3, 64, 48)."""
    photo = data.astronaut()
    pieces = np.stack([photo[:64, 200:248], photo[100:164, 180:228]]).transpose(0, 3, 1, 2).astype(np.float32)
    noise = np.random.default_rng(0).normal(scale=[[[[12]]], [[[40]]]], size=pieces.shape)
    return torch.tensor(pieces), torch.tensor((pieces + noise).clip(0, 255), dtype=torch.float32)


def test_ssim_and_psnr_are_scikit_images(pair):
    clean, noisy = pair
    for i in range(2):
        images = [x[i].permute(1, 2, 0).double().numpy() for x in pair]
        theirs = structural_similarity(
            *images, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(noisy, clean)[i].item() == pytest.approx(theirs, abs=1e-6)
        assert psnr(noisy, clean)[i].item() == pytest.approx(peak_signal_noise_ratio(*images, data_range=255))


def test_equal_images_have_the_best_values(pair):
    clean, _ = pair
    assert torch.equal(psnr(clean, clean), torch.full((2,), torch.inf, dtype=torch.float64))
    assert torch.allclose(ssim(clean, clean), torch.ones(2, dtype=torch.float64))


def test_images_smaller_than_the_window_are_compared_too():
    images = torch.rand(2, 1, 8, 8) * 255
    assert 0 < ssim(images, images * 0.9)[0] < 1
    with pytest.raises(ConfigError, match="cannot be compared"):
        ssim(images, images[:1])


@pytest.mark.parametrize("method", ["pmae", "mae", "mae-normalized", "mae-overlapping"])
def test_the_full_image_is_the_visible_part_and_the_predicted_masked_part(digits, tiny, method):
    settings = {"optim.epochs": 1, "masking.method": method[:4].rstrip("-")}
    if method == "mae-normalized":
        settings["masking.normalize_target"] = True
    if method == "mae-overlapping":
        settings |= {"model.patch_size": 4, "model.patch_stride": 2}
    config = tiny.with_values(settings)
    components = PrincipalComponents.fit(digits) if method == "pmae" else None
    result = pretrain(config, digits, components, seed=0)
    images = torch.from_numpy(digits[:6])
    made = reconstruct(result.model, images, result.statistics, result.config, seed=1)
    assert torch.equal(made.original[:, 0], images[..., 0].float())
    # What is visible and what is the target add up to the image; so do visible and prediction to the completed one.
    assert torch.allclose(made.visible + made.target, made.original, atol=1e-2)
    assert torch.allclose((made.visible + made.prediction).clamp(0, 255), made.completed, atol=1e-2)
    assert not torch.allclose(made.prediction, made.target, atol=1)
    quality = reconstruction_quality(made)
    assert set(quality) == {"ssim", "psnr", "visible_ssim", "visible_psnr"}
    assert -1 <= quality["ssim"] <= 1 and quality["psnr"] > 0
    again = reconstruct(result.model, images, result.statistics, result.config, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


def test_a_perfect_prediction_completes_the_image_exactly(digits, tiny):
    config = tiny.with_values({"optim.epochs": 1, "masking.method": "mae", "masking.normalize_target": True})
    result = pretrain(config, digits, seed=0)
    images = torch.from_numpy(digits[:4])
    from pmae.model.encoder import patchify, unpatchify

    x = (images.permute(0, 3, 1, 2).float() - result.statistics.mean) / result.statistics.std
    patches = patchify(x, 2)
    normalized = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()

    class Oracle(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            for name in ("projection", "patch_size", "stride", "config", "normalize_target"):
                setattr(self, name, getattr(model, name))

        def forward(self, images, mask):
            return self.model(images, mask)._replace(prediction=unpatchify(normalized, 8, 2))

    made = reconstruct(Oracle(result.model), images, result.statistics, result.config)
    assert torch.allclose(made.completed, made.original, atol=0.05)


def test_masks_are_drawn_as_the_settings_say(digits, tiny):
    config = tiny.with_values({"optim.epochs": 1, "masking.method": "mae", "masking.ratio": 0.25})
    result = pretrain(config, digits, seed=0)
    made = reconstruct(result.model, torch.from_numpy(digits[:8]), result.statistics, result.config)
    per_image = (made.target.flatten(1) != 0).double().mean(1)
    assert per_image.max() <= 0.25
    shared = dataclasses.replace(result.config, masking=MaskingConfig(method="mae", ratio=0.25, per="batch"))
    made = reconstruct(result.model, torch.from_numpy(digits[:8]), result.statistics, shared)
    hidden = made.target.abs().amax(0) > 0
    assert hidden.double().mean() <= 0.25
