"""From uint8 images in a memory map to standardized batches on the training device, and the order they come in.

No worker processes: a batch is one gather of uint8 rows, everything after it happens on the device. All randomness
comes from generators seeded by (seed, epoch, purpose), so a run that resumes at an epoch repeats nothing and skips
nothing, and every number of workers sees the same images under the same masks.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pmae.components.moments import floor_std
from pmae.config import DataConfig
from pmae.errors import DataError
from pmae.training.augment import augment

RESIDENT_SHARE = 0.25  # images move to a GPU once when they take at most this share of its free memory
BLOCK = 4096


class Images(Protocol):
    """What training needs of an image set (``pmae.data.ImageSet`` is one)."""

    @property
    def images(self) -> np.ndarray: ...

    def indices(self, split: str) -> np.ndarray: ...


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of every pixel over the training images, (C, H, W) float32, in uint8 units."""

    mean: Tensor
    std: Tensor


def pixel_statistics(images: np.ndarray, indices: np.ndarray) -> PixelStatistics:
    """Exact per-pixel statistics of uint8 images (N, H, W, C) at ``indices``; standard deviations have a floor."""
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(indices), BLOCK):
        block = np.asarray(images[indices[start : start + BLOCK]], dtype=np.int32)
        total += block.sum(0, dtype=np.int64)
        squares += (block * block).sum(0, dtype=np.int64)
    mean = total / len(indices)
    # Integers until the last step: the difference of the two large terms loses nothing.
    variance = (squares * len(indices) - total * total) / len(indices) ** 2
    std = floor_std(torch.from_numpy(variance.transpose(2, 0, 1)))
    return PixelStatistics(torch.from_numpy(mean.transpose(2, 0, 1).astype(np.float32)), std.float())


def seeded_generator(device: torch.device | str, *parts: Any) -> torch.Generator:
    """A generator on ``device`` whose seed is a hash of ``parts``, for example (seed, epoch, "masks")."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class TrainLoader:
    """Standardized, augmented training batches.

    Args:
        images: Image set; its ``train`` split is used.
        config: Augmentation.
        statistics: Pixel statistics for the standardization.
        batch_size: Images per step over all workers; a smaller split is one batch.
        seed: Seed of order and augmentation.
        device: Device on which batches are assembled.
        rank, world_size: This worker and how many there are; each takes an equal part of every batch.

    Raises:
        DataError: The split is empty, or there are fewer images in a batch than workers.
    """

    def __init__(
        self,
        images: Images,
        config: DataConfig,
        statistics: PixelStatistics,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = np.asarray(images.indices("train"))
        if not len(self.indices):
            raise DataError("the train split holds no images; check the source and --limit")
        self.images, self.config, self.seed, self.device = images.images, config, seed, device
        self.batch_size = min(batch_size, len(self.indices))
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
        return max(1, len(self.indices) // self.batch_size)

    def epoch(self, epoch: int) -> EpochBatches:
        """The batches of one epoch (from 0), the same each time they are asked for."""
        return EpochBatches(self, epoch)

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


class EpochBatches:
    """Iterates over one epoch's batches: float32 (b, C, H, W), this worker's part of each."""

    def __init__(self, batches: TrainLoader, epoch: int) -> None:
        self.batches, self.epoch = batches, epoch

    def __len__(self) -> int:
        return self.batches.steps

    def __iter__(self):  # type: ignore[no-untyped-def]
        b = self.batches
        where = b.device if b.resident is not None else torch.device("cpu")
        order = torch.randperm(len(b.indices), generator=seeded_generator("cpu", b.seed, self.epoch, "order"))
        order = order.to(where, non_blocking=True)
        generator = seeded_generator(b.device, b.seed, self.epoch, "augmentation")
        for step in range(b.steps):
            whole = order[step * b.batch_size : (step + 1) * b.batch_size]
            pixels = augment(
                b.gather(whole[b.shard]), generator, b.config.crop_scale, b.config.flip, b.shard, b.batch_size
            )
            yield (pixels - b.mean) / b.std
