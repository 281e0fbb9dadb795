"""The masked autoencoder: a timm encoder, a small decoder, the projection onto components, and two forwards.

* components masked (PMAE, Bizeul et al. 2025): the encoder sees all patches of the image that is rebuilt from the
  visible components; the loss asks for the masked ones (Eq. 3.1, or in pixels Eq. A.1).
* patches masked (MAE, He et al. 2022): the encoder runs on the visible patches only, mask tokens enter in the
  decoder, the loss is taken on masked patches.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pmae.components import PrincipalComponents
from pmae.config import ModelConfig
from pmae.errors import ConfigError
from pmae.masking import pixel_coverage, repeat_masks
from pmae.model.encoder import build_vit, patch_moments, patchify, position_parameter, unpatchify, use_fused_attention

LAYER_NORM: Any = partial(nn.LayerNorm, eps=1e-6)  # the papers' epsilon; torch's own is 1e-5
# On the CPU only the masked columns of V are multiplied where images share masks: with one mask always, with several if
# V has at least MIN_BASIS_ENTRIES entries and at most MAX_COLUMN_REUSE x K columns are selected in all.
MIN_BASIS_ENTRIES = 2**17
MAX_COLUMN_REUSE = 2

Columns = tuple[Tensor, ...]


class MaskedOutput(NamedTuple):
    """What one forward gives.

    Attributes:
        loss: Scalar, mean squared error on what was masked: the mean over images of each image's own mean.
        prediction: The decoder's image (B, C, H, W), standardized pixels (patch-normalized ones where the target is).
        visible: What the encoder was shown (B, C, H, W); masked pixels of MAE are 0.
        squared_error: Scalar, sum over the batch of the squared errors on what was masked.
        squared_target: Scalar, sum over the batch of the squares of the target there, without gradient;
            squared_error / squared_target is the share of the masked variance that is left unexplained.
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
        self.encoder = build_vit(config)
        assert config.image_size is not None  # build_vit needs it
        self.image_size, self.patch_size = config.image_size, config.patch_size
        self.grid, self.stride = self.encoder.patch_embed.grid_size[0], self.encoder.patch_embed.proj.stride[0]
        self.projection = None if components is None else ComponentProjection(components)
        width, channels = config.decoder_width, self.encoder.patch_embed.proj.in_channels
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if components is None else None
        self.decoder_pos_embed = position_parameter(config.position, width, self.grid)
        block = partial(Block, width, config.decoder_heads, config.mlp_ratio, qkv_bias=True, norm_layer=LAYER_NORM)
        self.decoder_blocks = nn.Sequential(*(block() for _ in range(config.decoder_depth)))
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
            mask: PMAE: (B, E) or (G, E) over components, see :class:`ComponentProjection`; MAE: (B, N) over
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
        masked = pixel_coverage(mask, self.grid, self.patch_size, self.stride, self.image_size)[:, None]
        target = images
        if self.normalize_target:
            patches = patchify(images, self.patch_size)
            mean, std = patch_moments(patches)
            target = unpatchify((patches - mean) / std, self.image_size, self.patch_size)
        # A mean per image: where patches overlap, images differ in masked pixels and may even have none.
        error = torch.where(masked, (prediction - target).square(), 0.0).flatten(1).sum(1)
        count = masked.flatten(1).sum(1).clamp(min=1) * images.shape[1]
        squares = torch.where(masked, target, 0.0).square().sum().detach()
        shown = images.masked_fill(masked, 0.0)
        return MaskedOutput((error / count).mean(), prediction, shown, error.sum(), squares, count.sum())

    def masked_values(self, mask: Tensor, images: int) -> Tensor:
        """Masked coordinates or pixel values in ``images`` images, before their forward: a scalar."""
        if self.projection is None:
            masked = pixel_coverage(mask, self.grid, self.patch_size, self.stride, self.image_size)
            return masked.flatten(1).sum(1).clamp(min=1).sum() * self.encoder.patch_embed.proj.in_channels
        size, rank = self.projection.basis.shape
        if self.loss == "pixels":
            return torch.full((), images * size, device=mask.device)
        counts = mask[:, :rank].sum(1) + mask[:, rank:].sum(1) * (size - rank)  # a residual is the last entry
        return repeat_masks(counts, images).sum()

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
        return unpatchify(self.decoder_pred(tokens)[:, 1:], self.image_size, self.patch_size, self.stride)

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


class ComponentProjection(nn.Module):
    """Splits standardized images into their visible and their masked components.

    Masks are boolean, True = masked, of shape (B, E), or (G, E) for masks that consecutive images share, see
    :func:`pmae.masking.repeat_masks`. E is the number of components K, plus one last entry where the basis is of low
    rank: the residual x - V Vᵀ x, a subspace of D - K coordinates that is masked or visible as a whole. Everything is
    computed in float32 with autocast off: in bf16 the smallest coefficients would be a third noise.

    Attributes:
        basis: (D, K) float32 orthonormal columns V.
        spectrum: (E,) float64 shares of the variance that sum to 1, ready for ``draw_component_mask``.
    """

    basis: Tensor
    spectrum: Tensor

    def __init__(self, components: PrincipalComponents) -> None:
        super().__init__()
        self.shape = components.shape
        self.has_residual = components.has_residual
        # Not persistent: the components are a file of their own.
        self.register_buffer("basis", torch.tensor(components.components, dtype=torch.float32), persistent=False)
        self.register_buffer("spectrum", torch.tensor(components.spectrum, dtype=torch.float64), persistent=False)

    def visible(self, x: Tensor, mask: Tensor, columns: Columns | None = None) -> Tensor:
        """The encoder's input V diag(1 - m) Vᵀ x (Bizeul et al. 2025, step 2), float32 in the shape of ``x``."""
        return self._part(x, mask, columns, masked=False)

    def target(self, x: Tensor, mask: Tensor, columns: Columns | None = None) -> Tensor:
        """The masked part V diag(m) Vᵀ x, what Eq. A.1 compares with in pixels; float32 in the shape of ``x``."""
        return self._part(x, mask, columns, masked=True)

    def masked_squares(self, difference: Tensor, mask: Tensor, columns: Columns | None = None) -> tuple[Tensor, Tensor]:
        """‖m ∘ Vᵀ(x̂ - x)‖² and |m|, (B,) each; their ratio is the error of Bizeul et al. 2025, Eq. 3.1.

        ``difference`` is x̂ - x, (B, D) or (B, C, H, W). A masked residual counts as D - K coordinates.
        """
        size, rank = self.basis.shape
        columns = columns or self.masked_columns(mask, len(difference))
        with torch.autocast(difference.device.type, enabled=False):
            difference = self._flat(difference)
            if columns is not None and not self.has_residual:
                groups = list(zip(_split(difference, columns), columns, strict=True))
                error = torch.cat([(d @ chosen).square().sum(1) for d, chosen in groups])
                return error, torch.cat([error.new_full((len(d),), chosen.shape[1]) for d, chosen in groups])
            masked = repeat_masks(mask, len(difference)).to(difference.dtype)
            z = difference @ self.basis
            error, count = (z.square() * masked[:, :rank]).sum(1), masked[:, :rank].sum(1)
            if self.has_residual:
                # Not ‖d‖² - ‖z‖²: that difference of large numbers would lose a small residual.
                rest = difference - z @ self.basis.T
                error = error + masked[:, -1] * rest.square().sum(1)
                count = count + masked[:, -1] * (size - rank)
            return error, count

    def masked_columns(self, mask: Tensor, images: int) -> Columns | None:
        """Masked columns of V, (D, k) for each mask (G, E), for the other methods; None where all are cheaper."""
        self._check(mask, images)
        # Picking makes a GPU wait for the number of columns, and breaks a compiled graph.
        if mask.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        groups, rank = len(mask), self.basis.shape[1]
        if groups > 1 and (groups == images or self.basis.numel() < MIN_BASIS_ENTRIES):
            return None
        masked = mask[:, :rank]
        counts = masked.sum(1).tolist()
        if groups > 1 and sum(counts) > MAX_COLUMN_REUSE * rank:
            return None
        # Indexing by a mask takes five times as long.
        return self.basis.index_select(1, masked.nonzero()[:, 1]).split(counts, dim=1)

    def _part(self, x: Tensor, mask: Tensor, columns: Columns | None, masked: bool) -> Tensor:
        """V diag(kept) Vᵀ x and the residual, if it is kept; kept is the mask or its opposite."""
        rank = self.basis.shape[1]
        columns = columns or self.masked_columns(mask, len(x))
        kept = mask if masked else ~mask
        with torch.autocast(x.device.type, enabled=False):
            flat = self._flat(x)
            if columns is not None:
                groups = zip(_split(flat, columns), kept, columns, strict=True)
                result = torch.cat([self._part_of_group(*group, masked) for group in groups])
            elif self.has_residual:
                # kept_rest (x - V z) + V (kept z) with one product back instead of two
                kept = repeat_masks(kept, len(flat)).to(flat.dtype)
                rest = kept[:, -1:]
                result = rest * flat + (flat @ self.basis * (kept[:, :rank] - rest)) @ self.basis.T
            else:
                result = (flat @ self.basis * repeat_masks(kept, len(flat)).to(flat.dtype)) @ self.basis.T
            return result.view(x.shape)

    def _part_of_group(self, flat: Tensor, kept: Tensor, columns: Tensor, masked: bool) -> Tensor:
        """The same for images that share a mask: only the columns of the smaller side are multiplied."""
        chosen = kept[: self.basis.shape[1]]
        keep_rest = bool(kept[-1]) if self.has_residual else int(chosen.sum()) * 2 > len(chosen)
        if keep_rest == masked:
            columns = self.basis.index_select(1, (chosen ^ keep_rest).nonzero().squeeze(1))
        part = (flat @ columns) @ columns.T
        return flat - part if keep_rest else part

    def _flat(self, x: Tensor) -> Tensor:
        if x.shape[1:].numel() != self.basis.shape[0]:
            raise ConfigError(
                f"images of shape {tuple(x.shape[1:])} do not fit components of (C, H, W) = {self.shape}; "
                "fit the components on images of the size that is trained on"
            )
        return x.flatten(1).to(self.basis.dtype)

    def _check(self, mask: Tensor, images: int) -> None:
        wanted, groups = len(self.spectrum), len(mask)
        size = -(-images // max(groups, 1))
        if mask.dtype != torch.bool or mask.shape != (groups, wanted) or -(-images // max(size, 1)) != groups:
            raise ConfigError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)} for {images} images; it must be bool of shape "
                f"(G, {wanted}), one mask per image or per ceil({images} / G) images, as MaskSampler draws it"
            )


def _split(x: Tensor, columns: Columns) -> tuple[Tensor, ...]:
    return x.split(-(-len(x) // len(columns)))
