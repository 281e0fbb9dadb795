"""The encoder that pre-training leaves behind: images to patches, and a timm ``VisionTransformer`` to read them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pmae.config import ENCODER_PRESETS, POOLS, ModelConfig, check_choice
from pmae.errors import ConfigError


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


def patch_moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, N, 1) of each patch (B, N, p*p*C), as ``normalize_target`` uses them."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()


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


def build_vit(config: ModelConfig) -> VisionTransformer:
    """A timm vision transformer without a head, with a class token, of the shape that ``config`` says."""
    side = config.grid
    if config.channels is None:
        raise ConfigError("channels is not known yet; give it, or let pretrain() take it from the images")
    shape: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "num_classes": 0,
    }
    if config.stride != config.patch_size:
        shape["embed_layer"] = partial(OverlappingPatchEmbed, stride=config.stride)
    vit: nn.Module
    if config.shape is not None:
        shape |= dict(zip(("embed_dim", "depth", "num_heads"), config.shape, strict=True))
        vit = VisionTransformer(mlp_ratio=config.mlp_ratio, global_pool="token", **shape)
    else:
        vit = timm.create_model(str(config.encoder), pretrained=False, **shape)
    if not isinstance(vit, VisionTransformer) or vit.num_prefix_tokens != 1 or vit.pos_embed is None:
        raise ConfigError(
            f"encoder {config.encoder!r} is not a vision transformer with one class token and absolute positions; "
            f"use {', '.join(ENCODER_PRESETS)} or a timm name such as 'vit_small_patch16_224'"
        )
    vit.pos_embed = position_parameter(config.position, vit.embed_dim, side)
    return vit


def use_fused_attention(module: nn.Module, fused: bool) -> None:
    """Choose scaled_dot_product_attention (GPU) or plain matrix products (CPU, where its bf16 backward is slow)."""
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]


def pool_tokens(tokens: Tensor, pool: str) -> Tensor:
    """Tokens (B, 1 + N, W) to features: class token or mean of the patches (B, W), or both (B, 2 W; DINOv2)."""
    if pool == "concat":
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
    return tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(dim=1)


class Encoder(nn.Module):
    """Standardized images to features.

    Attributes:
        vit: The timm ``VisionTransformer``.
        mean, std: Pixel statistics of the training split, (C, H, W), in uint8 units.
        pool: ``cls``, ``mean`` or ``concat``: what :meth:`forward` returns.
        image_size, channels, width: Side in pixels, 1 or 3, width of a token.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: VisionTransformer, mean: Tensor, std: Tensor, pool: str = "cls") -> None:
        super().__init__()
        check_choice("pool", pool, POOLS)
        self.vit = vit
        self.pool = pool
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    @property
    def channels(self) -> int:
        return self.mean.shape[0]

    @property
    def image_size(self) -> int:
        return self.mean.shape[1]

    @property
    def width(self) -> int:
        return self.vit.embed_dim

    def feature_width(self, pool: str | None = None) -> int:
        """Length F of a feature; ``pool`` is the encoder's own by default."""
        return self.width * (2 if (pool or self.pool) == "concat" else 1)

    def standardize(self, images: Tensor) -> Tensor:
        """uint8 images (B, H, W, C) to standardized float32 (B, C, H, W)."""
        return (images.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def tokens(self, images: Tensor) -> Tensor:
        """Standardized images (B, C, H, W) to normalized tokens (B, 1 + N, W), the class token first."""
        use_fused_attention(self.vit, images.is_cuda)
        return self.vit.forward_features(images)

    def features(self, images: Tensor, pools: Sequence[str] = ("cls", "mean")) -> dict[str, Tensor]:
        """Standardized images (B, C, H, W) to several poolings, for example ``{"cls": (B, W), "mean": (B, W)}``."""
        tokens = self.tokens(images)
        return {pool: pool_tokens(tokens, pool) for pool in pools}

    def forward(self, images: Tensor) -> Tensor:
        """Standardized images (B, C, H, W) to features (B, F)."""
        return pool_tokens(self.tokens(images), self.pool)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """uint8 images (B, H, W, C) to features (B, F)."""
        return self(self.standardize(images))
