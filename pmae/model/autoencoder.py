"""The masked autoencoder: a timm encoder, a small decoder, and two forwards.

* components masked (PMAE, Bizeul et al. 2025): the encoder sees all patches of the image that is rebuilt from the
  visible components; the loss asks for the masked ones (Eq. 3.1, or in pixels Eq. A.1).
* patches masked (MAE, He et al. 2022): the encoder runs on the visible patches only, mask tokens enter in the
  decoder, the loss is taken on masked patches.

Masks are drawn in ``masking``; True means masked.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pmae.config import ModelConfig
from pmae.errors import ConfigError
from pmae.masking import pixel_coverage
from pmae.model.encoder import build_vit, use_fused_attention
from pmae.model.patches import patchify, position_parameter, unpatchify
from pmae.model.projection import ComponentProjection

if TYPE_CHECKING:
    from pmae.components import PrincipalComponents

LAYER_NORM: Any = partial(nn.LayerNorm, eps=1e-6)  # the papers' epsilon; torch's own is 1e-5


class MaskedOutput(NamedTuple):
    """What one forward gives.

    Attributes:
        loss: Scalar, mean squared error on what was masked: the mean over images of each image's own mean.
        prediction: The decoder's image (B, C, H, W), standardized pixels (patch-normalized ones where the target is).
        visible: What the encoder was shown (B, C, H, W); masked pixels of MAE are 0.
        squared_error: Scalar, sum over the batch of the squared errors on what was masked.
        squared_target: Scalar, sum over the batch of the squares of the target there, without gradient.
            squared_error / squared_target is the share of the masked variance that is left unexplained; predicting 0,
            the mean, gives exactly 1.
        masked_values: Scalar, number of masked coordinates or pixel values in the batch.
    """

    loss: Tensor
    prediction: Tensor
    visible: Tensor
    squared_error: Tensor
    squared_target: Tensor
    masked_values: Tensor


class MaskedAutoencoder(nn.Module):
    """Encoder, decoder and loss.

    Args:
        config: Shapes; ``image_size`` and ``channels`` are known.
        components: With them components are masked (PMAE), without them patches (MAE).
        loss: ``components`` (Eq. 3.1) or ``pixels`` (Eq. A.1); PMAE only.
        normalize_target: Standardize each target patch by its own mean and variance; MAE only.

    Raises:
        ConfigError: A size is missing, or the components belong to images of another size.
    """

    def __init__(
        self,
        config: ModelConfig,
        components: PrincipalComponents | None = None,
        *,
        loss: str = "components",
        normalize_target: bool = False,
    ) -> None:
        super().__init__()
        shape = (config.channels, config.image_size, config.image_size)
        if components is not None and tuple(components.shape) != shape:
            raise ConfigError(
                f"the components were fitted on images of shape {components.shape}, but model.channels and "
                f"model.image_size give {shape}; fit them on the images at hand"
            )
        self.config, self.loss, self.normalize_target = config, loss, normalize_target
        self.patch_size, self.stride = config.patch_size, config.stride
        self.encoder = build_vit(config)
        self.projection = None if components is None else ComponentProjection(components)
        width, channels = config.decoder_width, self.encoder.patch_embed.proj.in_channels
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if components is None else None
        self.decoder_pos_embed = position_parameter(config.position, width, config.grid)
        self.decoder_blocks = nn.Sequential(
            *(
                Block(width, config.decoder_heads, config.mlp_ratio, qkv_bias=True, norm_layer=LAYER_NORM)
                for _ in range(config.decoder_depth)
            )
        )
        self.decoder_norm = LAYER_NORM(width)
        self.decoder_pred = nn.Linear(width, config.patch_size**2 * channels)
        self.apply(_initialize)
        for token in (self.encoder.cls_token, self.mask_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)

    def forward(self, images: Tensor, mask: Tensor, visible_tokens: int | None = None) -> MaskedOutput:
        """Standardized images (B, C, H, W) and a mask, True = masked, to loss and prediction.

        Args:
            images: Standardized images (B, C, H, W), float32.
            mask: PMAE: (B, K) or (G, K) over components, see :func:`pmae.masking.repeat_masks`; MAE: (B, N) over
                patches, as many masked in every row.
            visible_tokens: Visible patches per row when known (MAE); saves a wait for the device.
        """
        if self.projection is not None:
            return self._mask_components(self.projection, images, mask)
        return self._mask_patches(images, mask, visible_tokens)

    def _mask_components(self, projection: ComponentProjection, images: Tensor, mask: Tensor) -> MaskedOutput:
        flat = images.flatten(1)
        columns = projection.masked_columns(mask, len(images))
        shown = projection.visible(flat, mask, columns).view_as(images)
        prediction = self._decode(self.decoder_embed(self.encoder.forward_features(shown))).to(images.dtype)
        if self.loss == "components":
            error, count = projection.masked_squares(prediction.flatten(1) - flat, mask, columns)
        else:
            error = (prediction.flatten(1) - projection.target(flat, mask, columns)).square().sum(1)
            count = torch.full_like(error, flat.shape[1])
        # The visible and the masked part add up to the image, so the target needs no further matrix product.
        target = (images - shown).square().sum().detach()
        return MaskedOutput((error / count).mean(), prediction, shown, error.sum(), target, count.sum())

    def _mask_patches(self, images: Tensor, mask: Tensor, visible_tokens: int | None) -> MaskedOutput:
        keep = visible_tokens if visible_tokens is not None else int((~mask[0]).sum())
        order = mask.to(torch.int8).argsort(dim=1, stable=True)  # visible patches first, each in its old order
        latent = self.decoder_embed(self._encode_visible(images, order[:, :keep]))
        hidden = self.mask_token.to(latent.dtype).expand(len(images), mask.shape[1] - keep, -1)  # type: ignore[union-attr]
        shuffled = torch.cat([latent[:, 1:], hidden], dim=1)
        back = order.argsort(dim=1)[..., None].expand_as(shuffled)
        tokens = torch.cat([latent[:, :1], shuffled.gather(1, back)], dim=1)
        prediction = self._decode(tokens).to(images.dtype)
        assert self.config.image_size is not None
        masked = pixel_coverage(mask, self.config.grid, self.patch_size, self.stride, self.config.image_size)[:, None]
        target = self._normalized(images) if self.normalize_target else images
        # A mean per image: where patches overlap, images differ in masked pixels and may even have none.
        error = torch.where(masked, (prediction - target).square(), 0.0).flatten(1).sum(1)
        count = masked.flatten(1).sum(1).clamp(min=1) * images.shape[1]
        squares = torch.where(masked, target, 0.0).square().sum().detach()
        shown = images.masked_fill(masked, 0.0)
        return MaskedOutput((error / count).mean(), prediction, shown, error.sum(), squares, count.sum())

    def _encode_visible(self, images: Tensor, keep: Tensor) -> Tensor:
        """Tokens (B, 1 + visible, W) of the patches whose numbers are in ``keep`` (B, visible), class token first."""
        vit = self.encoder
        assert vit.pos_embed is not None and vit.cls_token is not None
        patches = vit.patch_embed(images) + vit.pos_embed[:, 1:]
        patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[-1]))
        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
        tokens = torch.cat([cls.to(patches.dtype), patches], dim=1)
        return vit.norm(vit.blocks(vit.norm_pre(tokens)))

    def _decode(self, tokens: Tensor) -> Tensor:
        """Embedded tokens (B, 1 + N, decoder width) to an image (B, C, H, W)."""
        tokens = self.decoder_norm(self.decoder_blocks(tokens + self.decoder_pos_embed))
        assert self.config.image_size is not None
        return unpatchify(self.decoder_pred(tokens)[:, 1:], self.config.image_size, self.patch_size, self.stride)

    def _normalized(self, images: Tensor) -> Tensor:
        patches = patchify(images, self.patch_size)
        mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        assert self.config.image_size is not None
        return unpatchify((patches - mean) / (var + 1e-6).sqrt(), self.config.image_size, self.patch_size)

    def on(self, device: torch.device) -> MaskedAutoencoder:
        """Move to ``device`` and take the attention that is fastest there."""
        use_fused_attention(self, device.type == "cuda")
        return self.to(device)


def _initialize(module: nn.Module) -> None:
    """MAE's initialization: Xavier for every matrix (the patch embedding counts as one), zero biases."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
