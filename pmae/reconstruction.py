"""Full-image reconstructions of a pre-trained model, with PSNR and SSIM.

Kong et al. 2023 read SSIM (structure) against PSNR (pixels). Images here are (B, C, H, W) in levels 0..255.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pmae.config import PretrainConfig
from pmae.errors import ConfigError
from pmae.masking import MaskSampler, pixel_coverage
from pmae.model.encoder import patch_moments, patchify, unpatchify
from pmae.training.loader import PixelStatistics

if TYPE_CHECKING:
    from pmae.model.autoencoder import MaskedAutoencoder

LEVELS = 255.0
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


class Reconstruction(NamedTuple):
    """One batch, each (B, C, H, W) float32.

    Attributes:
        original: Levels 0..255.
        visible: What the encoder was shown, in levels; PMAE's may be outside 0..255, MAE's masked pixels are gray
            (the mean image).
        prediction: The masked part as predicted: signed deviations in levels (PMAE: the masked components of the
            decoder's image, V diag(m) Vᵀ x̂; MAE: its masked pixels less the mean image, 0 elsewhere).
        target: The masked part as it is, likewise.
        completed: The full reconstruction: visible part plus predicted masked part, clipped to 0..255.
    """

    original: Tensor
    visible: Tensor
    prediction: Tensor
    target: Tensor
    completed: Tensor


@torch.no_grad()
def reconstruct(
    model: MaskedAutoencoder, images: Tensor, statistics: PixelStatistics, config: PretrainConfig, seed: int = 0
) -> Reconstruction:
    """Mask uint8 images (B, H, W, C) as in training and let the model fill in what is missing.

    The model is run in evaluation mode on the device it is on; ``statistics`` are those of its training images. Masks
    are drawn with ``seed`` as the resolved ``config`` says.
    """
    device = next(model.parameters()).device
    mean, std = (s.to(device) for s in statistics)
    original = images.to(device).permute(0, 3, 1, 2).float()
    x = (original - mean) / std
    generators = (torch.Generator(device).manual_seed(seed), torch.Generator().manual_seed(seed))
    source = MaskSampler(config, None if model.projection is None else model.projection.spectrum)
    mask = source.draw(len(x), *generators).mask
    training = model.training
    try:
        output = model.eval()(x, mask)
    finally:
        model.train(training)
    prediction, target = masked_parts(model, x, output.prediction, mask)
    completed = ((output.visible + prediction) * std + mean).clamp(0, LEVELS)
    return Reconstruction(original, output.visible * std + mean, prediction * std, target * std, completed)


def masked_parts(model: MaskedAutoencoder, x: Tensor, predicted: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The masked part of a prediction and of the standardized images ``x`` (B, C, H, W), both standardized."""
    if model.projection is not None:
        return model.projection.target(predicted, mask), model.projection.target(x, mask)
    size, patch, stride = x.shape[-1], model.patch_size, model.stride
    hidden = pixel_coverage(mask, model.config.grid, patch, stride, size)[:, None]
    if model.normalize_target:  # shown with the true patches' mean and variance, as in He et al. 2022
        mean, std = patch_moments(patchify(x, patch))
        predicted = unpatchify(patchify(predicted, patch) * std + mean, size, patch)
    return predicted * hidden, x * hidden


def reconstruction_quality(reconstruction: Reconstruction) -> dict[str, float]:
    """Mean SSIM and PSNR (dB) of the completed images against the originals, and of the visible parts alone."""
    visible = reconstruction.visible.clamp(0, LEVELS)
    pairs = {"": reconstruction.completed, "visible_": visible}
    scores = {}
    for name, images in pairs.items():
        scores[f"{name}ssim"] = ssim(images, reconstruction.original).mean().item()
        scores[f"{name}psnr"] = psnr(images, reconstruction.original).mean().item()
    return scores


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of images (B, C, H, W): 10 log10(255² / MSE); inf where equal."""
    _check_pair(images, reference)
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(LEVELS**2 / error)


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Mean structural similarity (B,) of images (B, C, H, W), 1 where equal (Wang et al. 2004, Eq. 13).

    Gaussian window of 11 x 11 and sigma 1.5, K1 = 0.01, K2 = 0.03, at the positions where the window is within the
    image, mean over positions and channels. Images below 11 px get the largest odd window that fits.
    """
    _check_pair(images, reference)
    x, y = images.double(), reference.double()
    window = _window(min(WINDOW, (x.shape[-1] - 1) // 2 * 2 + 1), x)
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x, var_y = _blur(x * x, window) - mean_x**2, _blur(y * y, window) - mean_y**2
    covariance = _blur(x * y, window) - mean_x * mean_y
    c1, c2 = (K1 * LEVELS) ** 2, (K2 * LEVELS) ** 2
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return ((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure).flatten(1).mean(1)


def _window(size: int, like: Tensor) -> Tensor:
    offset = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    weights = torch.exp(-(offset**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur(x: Tensor, window: Tensor) -> Tensor:
    b, c, h, w = x.shape
    flat = x.reshape(b * c, 1, h, w)
    return F.conv2d(F.conv2d(flat, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1)).unflatten(0, (b, c))


def _check_pair(images: Tensor, reference: Tensor) -> None:
    if images.shape != reference.shape or images.ndim != 4:
        raise ConfigError(
            f"images of shape {tuple(images.shape)} cannot be compared with {tuple(reference.shape)}; "
            "give both as (B, C, H, W)"
        )
