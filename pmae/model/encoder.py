"""The encoder that pre-training leaves behind: a timm ``VisionTransformer`` and how to feed it pixels.

It is trained in ``training``, scored in ``probes`` and stored in ``export``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pmae.config import ENCODER_PRESETS, POOLS, ModelConfig, check_choice
from pmae.errors import ConfigError
from pmae.model.patches import OverlappingPatchEmbed, position_parameter


def build_vit(config: ModelConfig) -> VisionTransformer:
    """A timm vision transformer without a head, with a class token, of the shape that ``config`` says.

    Raises:
        ConfigError: The size of the images is not known, or the timm model has no single class token.
    """
    side = config.grid
    if config.channels is None:
        raise ConfigError("channels is not known yet; give it, or let pretrain() take it from the images")
    overlapping = config.stride != config.patch_size
    embed = partial(OverlappingPatchEmbed, stride=config.stride)
    shape: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "num_classes": 0,
        **({"embed_layer": embed} if overlapping else {}),
    }
    vit: nn.Module
    if config.shape is not None:
        width, depth, heads = config.shape
        vit = VisionTransformer(
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=config.mlp_ratio,
            global_pool="token",
            **shape,
        )
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
    """Tokens (B, 1 + N, W) to features (B, F): the class token, the mean of the patch tokens, or both concatenated.

    F is W, or 2 W for ``concat`` (as in the linear evaluation of DINOv2, Oquab et al. 2023).
    """
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
