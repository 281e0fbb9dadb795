"""Masking in a component basis as torch operations: what stays visible, what is asked for, and the loss on it.

:class:`ComponentProjection` holds the basis on the training device. Which entries are masked is decided in
``masking.py``; how the basis is fitted, in ``components.py`` and ``bases.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pmae.errors import ConfigError
from pmae.masking import repeat_masks

if TYPE_CHECKING:
    from pmae.components import PrincipalComponents

# Where groups of images share a mask, the masked columns of V are picked on the CPU if V has at least so many entries
# and no more than so many times its columns are picked: elsewhere that takes longer than to multiply all columns.
LEAST_PICKED = 2**17
MOST_PICKED = 2

Columns = tuple[Tensor, ...]


class ComponentProjection(nn.Module):
    """Splits standardized images into their visible and their masked components.

    Masks are boolean, True = masked, of shape (B, E), or (G, E) for masks that consecutive images share, see
    :func:`pmae.masking.repeat_masks`. E is the number of components K, plus one last entry where the basis is of low
    rank: the residual x - V Vᵀ x, a subspace of D - K coordinates that is masked or visible as a whole.

    Everything is computed in float32 with autocast off: in bf16 the smallest coefficients would be a third noise.
    Whether float32 products may use TF32 is decided by the caller. The buffers are not part of ``state_dict``: the
    components are a file of their own.

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
        self.register_buffer("basis", torch.tensor(components.components, dtype=torch.float32), persistent=False)
        self.register_buffer("spectrum", torch.tensor(components.spectrum, dtype=torch.float64), persistent=False)

    def visible(self, x: Tensor, mask: Tensor, columns: Columns | None = None) -> Tensor:
        """The encoder's input V diag(1 - m) Vᵀ x (Bizeul et al. 2025, step 2), float32 in the shape of ``x``."""
        return self._part(x, mask, columns, masked=False)

    def target(self, x: Tensor, mask: Tensor, columns: Columns | None = None) -> Tensor:
        """The masked part V diag(m) Vᵀ x, what Eq. A.1 compares with in pixels; float32 in the shape of ``x``."""
        return self._part(x, mask, columns, masked=True)

    def masked_squares(self, difference: Tensor, mask: Tensor, columns: Columns | None = None) -> tuple[Tensor, Tensor]:
        """‖m ∘ Vᵀ(x̂ - x)‖² and |m|, whose ratio is the mean squared error of Bizeul et al. 2025, Eq. 3.1.

        Args:
            difference: Prediction minus image, (B, D) or (B, C, H, W).
            mask: (B, E) or (G, E), at least one entry True in each row.
            columns: What :meth:`masked_columns` returned for this mask, if it was called before.

        Returns:
            Two (B,) float32, the sum and the count of each image. A masked residual counts as its D - K coordinates.
        """
        size, rank = self.basis.shape
        columns = columns or self.masked_columns(mask, len(difference))
        with _full_precision(difference):
            difference = self._flat(difference)
            if columns is not None and not self.has_residual:
                groups = list(zip(_split(difference, columns), columns, strict=True))
                error = _join([(d @ chosen).square().sum(1) for d, chosen in groups])
                return error, _join([error.new_full((len(d),), chosen.shape[1]) for d, chosen in groups])
            mask = repeat_masks(mask, len(difference))
            z = difference @ self.basis
            masked = mask[:, :rank].to(z.dtype)
            error, count = (z.square() * masked).sum(1), masked.sum(1)
            if self.has_residual:
                # Not ‖d‖² - ‖z‖²: that difference of large numbers would lose a small residual.
                rest = difference - z @ self.basis.T
                masked_rest = mask[:, -1].to(z.dtype)
                error = error + masked_rest * rest.square().sum(1)
                count = count + masked_rest * (size - rank)
            return error, count

    def masked_columns(self, mask: Tensor, images: int) -> Columns | None:
        """Masked columns of V, (D, k) for each mask (G, E), or None where it is cheaper to multiply all columns.

        The other methods take them as ``columns``, so that a step picks only once.
        """
        self._check(mask, images)
        # Picking makes a GPU wait for the number of columns, and breaks a compiled graph.
        if mask.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        groups, rank = len(mask), self.basis.shape[1]
        if groups > 1 and (groups == images or self.basis.numel() < LEAST_PICKED):
            return None
        masked = mask[:, :rank]
        counts = masked.sum(1).tolist()
        if groups > 1 and sum(counts) > MOST_PICKED * rank:
            return None
        # Indexing by a mask takes five times as long.
        return self.basis.index_select(1, masked.nonzero()[:, 1]).split(counts, dim=1)

    def _part(self, x: Tensor, mask: Tensor, columns: Columns | None, masked: bool) -> Tensor:
        """V diag(kept) Vᵀ x, and the residual where its entry is kept; kept is the mask or its opposite."""
        rank = self.basis.shape[1]
        columns = columns or self.masked_columns(mask, len(x))
        kept = mask if masked else ~mask
        with _full_precision(x):
            flat = self._flat(x)
            if columns is not None:
                groups = zip(_split(flat, columns), kept, columns, strict=True)
                result = _join([self._part_of_group(*group, masked) for group in groups])
            elif self.has_residual:
                # kept_rest (x - V z) + V (kept z) with one product back instead of two
                kept = repeat_masks(kept, len(flat))
                rest = kept[:, -1:].to(flat.dtype)
                weights = kept[:, :rank].to(flat.dtype) - rest
                result = rest * flat + (flat @ self.basis * weights) @ self.basis.T
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


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
