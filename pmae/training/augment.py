"""Random resized crop and horizontal flip of a whole batch of tensors, on the device that trains.

A crop that is resized is two small matrix products per image (rows, then columns), whose matrices hold Pillow's
antialiased bicubic weights. Against torchvision's transforms on PIL images, at least 99.5 % of the pixels are equal and
none differs by more than 2 of 255 levels; 2 occurs in fewer than 1 of 20,000 (measured on noise, smooth and binary
images of 8 to 96 px). Pillow computes with fixed-point weights: a value near a half can round the other way in the
first pass, and its error can grow by one level in the second.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pmae.config import usual_crop_scale

ASPECT_RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10  # torchvision's RandomResizedCrop tries as often before it falls back to the whole image


class Crops(NamedTuple):
    """Boxes in pixels, each (B,) int64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_crops(batch: int, size: int, scale: tuple[float, float], generator: torch.Generator) -> Crops:
    """Random boxes in square images of ``size`` px, distributed as torchvision's ``RandomResizedCrop`` draws them.

    Args:
        batch: Number of boxes B.
        size: Side of the images in pixels.
        scale: Share of the area kept, (low, high).
        generator: Source of randomness; its device is the boxes' device.
    """
    device = generator.device
    draw = torch.rand(4, batch, ATTEMPTS, generator=generator, device=device, dtype=torch.float64)
    area = size * size * (scale[0] + (scale[1] - scale[0]) * draw[0])
    low, high = (math.log(r) for r in ASPECT_RATIO)
    aspect = torch.exp(low + (high - low) * draw[1])
    width, height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (width >= 1) & (width <= size) & (height >= 1) & (height <= size)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    found = fits.gather(1, first).squeeze(1)
    width, height, down, right = (v.gather(1, first).squeeze(1) for v in (width, height, draw[2], draw[3]))
    # None of the attempts fitted: the whole (square) image, as torchvision's fallback gives it.
    width, height = (torch.where(found, v, float(size)) for v in (width, height))
    top, left = (down * (size - height + 1)).floor(), (right * (size - width + 1)).floor()
    return Crops(*(v.long() for v in (top, left, height, width)))


def resize_weights(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Matrices (B, size, size) that crop [start, start + length) of an axis and resize it to ``size`` px.

    Pillow's antialiased bicubic (a = -0.5): the kernel widens with the reduction, taps outside the crop are dropped
    and the rest is normalized to sum to 1.
    """
    pixel = torch.arange(size, device=start.device, dtype=torch.float64)
    ratio = length.double()[:, None, None] / size
    support = ratio.clamp(min=1.0)
    center = (pixel[None, :, None] + 0.5) * ratio
    tap = pixel[None, None, :] - start.double()[:, None, None]
    weight = _bicubic((tap - center + 0.5) / support)
    weight = weight.masked_fill((tap < 0) | (tap >= length[:, None, None]), 0.0)
    return (weight / weight.sum(-1, keepdim=True)).float()


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def apply_crops(images: Tensor, crops: Crops, flip: Tensor | None = None) -> Tensor:
    """Crop and resize images to their own size and mirror some.

    Args:
        images: uint8 (B, H, W, C), H = W.
        crops: One box per image.
        flip: (B,) bool, True mirrors left to right; None mirrors none.

    Returns:
        float32 (B, C, H, W) in whole uint8 levels 0..255.
    """
    size = images.shape[1]
    rows = resize_weights(crops.top, crops.height, size)
    columns = resize_weights(crops.left, crops.width, size)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    x = images.permute(0, 3, 1, 2).float()
    # Pillow rounds to 8 bits after each pass, columns first.
    x = (x @ columns.mT[:, None]).round_().clamp_(0, 255)
    return (rows[:, None] @ x).round_().clamp_(0, 255)


def augment(
    images: Tensor,
    generator: torch.Generator,
    crop_scale: tuple[float, float] | None = (0.2, 1.0),
    flip: bool = True,
    shard: slice = slice(None),
    batch: int | None = None,
) -> Tensor:
    """Random resized crop and flip of uint8 images (B, H, W, C) to float32 (B, C, H, W) in levels 0..255.

    Args:
        images: This worker's images.
        generator: On the images' device; draws for the whole batch, so that every number of workers sees the same.
        crop_scale: Share of the area kept; (1, 1) does not crop, None derives it from the size.
        flip: Whether half of the images are mirrored.
        shard: This worker's part of the batch.
        batch: Images in the whole batch over all workers; None is ``len(images)``.
    """
    batch = len(images) if batch is None else batch
    size = images.shape[1]
    scale = usual_crop_scale(size) if crop_scale is None else crop_scale
    crops = draw_crops(batch, size, scale, generator) if scale != (1.0, 1.0) else None
    mirrored = torch.rand(batch, generator=generator, device=generator.device)[shard] < 0.5 if flip else None
    if crops is not None:
        return apply_crops(images, Crops(*(v[shard] for v in crops)), mirrored)
    x = images.permute(0, 3, 1, 2).float()
    return x if mirrored is None else torch.where(mirrored[:, None, None, None], x.flip(3), x)
