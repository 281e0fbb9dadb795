"""Conversion between images and patches, overlapping or not."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn


def patchify(images: Tensor, patch_size: int, stride: int | None = None) -> Tensor:
    """Images (B, C, H, W) as patches (B, N, p*p*C), row by row, each patch in (row, column, channel) order."""
    stride = stride or patch_size
    windows = images.unfold(2, patch_size, stride).unfold(3, patch_size, stride)  # B C h w p p
    return windows.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, image_size: int, patch_size: int, stride: int | None = None) -> Tensor:
    """Patches (B, N, p*p*C) as images (B, C, H, W); where patches overlap their values are averaged."""
    stride = stride or patch_size
    b, n, _ = patches.shape
    if stride == patch_size:
        side = image_size // patch_size
        grid = patches.reshape(b, side, side, patch_size, patch_size, -1)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, image_size, image_size)
    columns = patches.reshape(b, n, patch_size**2, -1).permute(0, 3, 2, 1).flatten(1, 2)  # B C*p*p N
    total = F.fold(columns, image_size, patch_size, stride=stride)
    count = F.fold(torch.ones_like(columns[:1, : patch_size**2]), image_size, patch_size, stride=stride)
    return total / count


class OverlappingPatchEmbed(PatchEmbed):
    """timm's patch embedding with a separate stride; with ``stride == patch_size`` it equals timm's."""

    def __init__(self, img_size: int, patch_size: int, *, stride: int, **kwargs: object) -> None:
        super().__init__(img_size=img_size, patch_size=patch_size, **kwargs)  # type: ignore[arg-type]
        side = (img_size - patch_size) // stride + 1
        self.proj.stride = (stride, stride)
        self.grid_size = (side, side)
        self.num_patches = side**2


def sincos_position(width: int, side: int) -> Tensor:
    """Fixed 2-D sine-cosine embeddings (1, 1 + side**2, width), zeros for the class token (He et al. 2022)."""
    omega = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width // 4))
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    # The first half of the width encodes the column, the second the row, as in the MAE reference.
    parts = [np.outer(axis.ravel(), omega) for axis in (columns, rows)]
    table = np.concatenate([f(part) for part in parts for f in (np.sin, np.cos)], axis=1)
    table = np.concatenate([np.zeros((1, width)), table])
    return torch.from_numpy(table).float().unsqueeze(0)


def position_parameter(kind: str, width: int, side: int) -> nn.Parameter:
    """Position embeddings (1, 1 + side**2, width): ``learned`` (normal, std 0.02) or fixed ``sincos``."""
    if kind == "sincos":
        return nn.Parameter(sincos_position(width, side), requires_grad=False)
    return nn.Parameter(torch.randn(1, 1 + side**2, width) * 0.02)
