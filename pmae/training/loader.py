"""From uint8 images in a memory map to standardized batches on the training device, and the order they come in.

No worker processes: a batch is one gather of uint8 rows, everything after it happens on the device. Generators are
seeded by (seed, epoch, purpose), so a run can resume at an epoch, and every number of workers sees the same.

A random resized crop is two small matrix products per image (rows, then columns), whose matrices hold Pillow's
antialiased bicubic weights. Against torchvision's transforms on PIL images, at least 99.5 % of the pixels are equal and
none differs by more than 2 of 255 levels; 2 occurs in fewer than 1 of 20,000 (measured on noise, smooth and binary
images of 8 to 96 px), because Pillow computes with fixed-point weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pmae.components.moments import TrainingImages
from pmae.config import DataConfig, steps_per_epoch, usual_crop_scale
from pmae.errors import DataError

RESIDENT_SHARE = 0.25  # images move to a GPU once when they take at most this share of its free memory
ASPECT_RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10  # torchvision's RandomResizedCrop tries as often before it falls back to the whole image


class Images(Protocol):
    """What training needs of an image set (``pmae.data.ImageSet`` is one)."""

    @property
    def images(self) -> np.ndarray: ...

    def indices(self, split: str) -> np.ndarray: ...


@dataclass(frozen=True)
class OneSplit:
    """Images (N, H, W, C) of which those at ``rows`` are every split."""

    images: np.ndarray
    rows: np.ndarray

    def indices(self, split: str) -> np.ndarray:
        return self.rows


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of every pixel over the training images, (C, H, W) float32, in uint8 units."""

    mean: Tensor
    std: Tensor


def pixel_statistics(images: np.ndarray, indices: np.ndarray) -> PixelStatistics:
    """Exact per-pixel statistics of uint8 images (N, H, W, C) at ``indices``; standard deviations have a floor."""
    data = TrainingImages(images, indices)
    return PixelStatistics(*(a.float().view(data.shape) for a in data.mean_and_std()))


def seeded_generator(device: torch.device | str, *parts: Any) -> torch.Generator:
    """A generator on ``device`` whose seed is a hash of ``parts``, for example (seed, epoch, "masks")."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class TrainLoader:
    """Standardized, augmented batches of the images (N, H, W, C) at ``indices`` (M,), assembled on ``device``.

    A batch has ``batch_size`` images over all workers, or all images where those are fewer. Raises DataError where the
    split is empty or a batch has fewer images than there are workers.
    """

    def __init__(
        self,
        images: np.ndarray,
        indices: np.ndarray,
        config: DataConfig,
        statistics: PixelStatistics,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not len(indices):
            raise DataError("the train split holds no images; check the source and --limit")
        self.images, self.indices, self.config, self.seed, self.device = images, indices, config, seed, device
        self.batch_size = min(batch_size, len(indices))
        if self.batch_size < world_size:
            raise DataError(f"a batch of {self.batch_size} images cannot be shared by {world_size} workers; use fewer")
        # The same images in every world size: parts differ by one image where the batch does not divide evenly.
        ends = [self.batch_size * r // world_size for r in range(world_size + 1)]
        self.shard = slice(ends[rank], ends[rank + 1])
        self.mean, self.std = statistics.mean.to(device), statistics.std.to(device)
        self.resident = self._on_gpu()

    @property
    def steps(self) -> int:
        """Steps per epoch; the images left over differ from epoch to epoch."""
        return steps_per_epoch(len(self.indices), self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """This worker's part of every batch of an epoch (from 0), float32 (b, C, H, W); the same at every call."""
        order = torch.randperm(len(self.indices), generator=seeded_generator("cpu", self.seed, epoch, "order"))
        if self.resident is not None:
            order = order.to(self.device, non_blocking=True)
        generator = seeded_generator(self.device, self.seed, epoch, "augmentation")
        for step in range(self.steps):
            whole = order[step * self.batch_size : (step + 1) * self.batch_size]
            images, scale, flip = self.gather(whole[self.shard]), self.config.crop_scale, self.config.flip
            yield (augment(images, generator, scale, flip, self.shard, self.batch_size) - self.mean) / self.std

    def _on_gpu(self) -> Tensor | None:
        if self.device.type != "cuda":
            return None
        size = int(np.prod(self.images.shape[1:])) * len(self.indices)
        if size > RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            return None
        return torch.from_numpy(np.asarray(self.images[self.indices])).to(self.device)

    def gather(self, positions: Tensor) -> Tensor:
        """uint8 images (b, H, W, C) on the device; ``positions`` count within the split."""
        if self.resident is not None:
            return self.resident[positions]
        rows = self.images[self.indices[positions.cpu().numpy()]]
        batch = torch.from_numpy(np.ascontiguousarray(rows))
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # only a copy from pinned memory lets the CPU run ahead of the GPU
        return batch.to(self.device, non_blocking=True)


class Crops(NamedTuple):
    """Boxes in pixels, each (B,) int64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_crops(batch: int, size: int, scale: tuple[float, float], generator: torch.Generator) -> Crops:
    """Random boxes in square images of ``size`` px as torchvision's ``RandomResizedCrop`` draws them."""
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
    """Crop and resize uint8 images (B, H, W, C) to their own size; ``flip`` (B,) mirrors some left to right.

    Returns float32 (B, C, H, W) in whole levels 0..255.
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

    The generator, on the images' device, draws for the whole ``batch`` over all workers (None: ``len(images)``), of
    which the images are the ``shard``. A ``crop_scale`` of (1, 1) does not crop, None derives it from the size.
    """
    batch, size = len(images) if batch is None else batch, images.shape[1]
    scale = usual_crop_scale(size) if crop_scale is None else crop_scale
    crops = draw_crops(batch, size, scale, generator) if scale != (1.0, 1.0) else None
    mirrored = torch.rand(batch, generator=generator, device=generator.device)[shard] < 0.5 if flip else None
    if crops is not None:
        return apply_crops(images, Crops(*(v[shard] for v in crops)), mirrored)
    x = images.permute(0, 3, 1, 2).float()
    return x if mirrored is None else torch.where(mirrored[:, None, None, None], x.flip(3), x)
