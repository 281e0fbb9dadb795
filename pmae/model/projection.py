"""Masking in a component basis as torch operations: what stays visible, what is asked for, and the loss on it.

:class:`ComponentProjection` holds the basis on the training device. Which entries are masked is decided in
``masking.py``; how the basis is fitted, in ``components.py`` and ``bases.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pmae.errors import ConfigError

if TYPE_CHECKING:
    from pmae.components import PrincipalComponents


class ComponentProjection(nn.Module):
    """Splits standardized images into their visible and their masked components.

    Masks are boolean, True = masked, of shape (B, E) or (1, E) for one mask that all images share. E is the number
    of components K, plus one last entry where the basis is of low rank: the residual x - V Vᵀ x, a subspace of
    D - K coordinates that is masked or visible as a whole.

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

    @property
    def entries(self) -> int:
        """Length E of a mask."""
        return self.spectrum.numel()

    def coefficients(self, x: Tensor) -> Tensor:
        """Vᵀ x of standardized images (B, D) or (B, C, H, W), as float32 (B, K)."""
        with _full_precision(x):
            return self._flat(x) @ self.basis

    def visible(self, x: Tensor, mask: Tensor) -> Tensor:
        """The encoder's input V diag(1 - m) Vᵀ x (Bizeul et al. 2025, step 2), float32 in the shape of ``x``."""
        return self._part(x, mask, masked=False)

    def target(self, x: Tensor, mask: Tensor) -> Tensor:
        """The masked part V diag(m) Vᵀ x, what Eq. A.1 compares with in pixels; float32 in the shape of ``x``."""
        return self._part(x, mask, masked=True)

    def masked_error(self, difference: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error over the masked coordinates, ‖m ∘ Vᵀ(x̂ - x)‖² / |m| (Bizeul et al. 2025, Eq. 3.1).

        Args:
            difference: Prediction minus image, (B, D) or (B, C, H, W).
            mask: (B, E) or (1, E), at least one entry True in each row.

        Returns:
            (B,) float32, one mean for each image. A masked residual counts as its D - K coordinates.
        """
        error, count = self.masked_squares(difference, mask)
        return error / count

    def masked_squares(self, difference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of squares over the masked coordinates and their number |m|, (B,) float32 each; see `masked_error`."""
        self._check(mask)
        size, rank = self.basis.shape
        with _full_precision(difference):
            difference = self._flat(difference)
            if _is_one_mask(mask) and _may_pick_columns(difference) and not self.has_residual:
                chosen = self.basis[:, mask[0]]
                error = (difference @ chosen).square().sum(1)
                return error, torch.full_like(error, chosen.shape[1])
            z = difference @ self.basis
            masked = mask[:, :rank].to(z.dtype)
            error, count = (z.square() * masked).sum(1), masked.sum(1)
            if self.has_residual:
                # Not ‖d‖² - ‖z‖²: that difference of large numbers would lose a small residual.
                rest = difference - z @ self.basis.T
                masked_rest = mask[:, -1].to(z.dtype)
                error = error + masked_rest * rest.square().sum(1)
                count = count + masked_rest * (size - rank)
            return error, count.expand_as(error)

    def _part(self, x: Tensor, mask: Tensor, masked: bool) -> Tensor:
        """V diag(kept) Vᵀ x, and the residual where its entry is kept; kept is the mask or its opposite."""
        self._check(mask)
        rank = self.basis.shape[1]
        kept = mask if masked else ~mask
        with _full_precision(x):
            flat = self._flat(x)
            if _is_one_mask(mask) and _may_pick_columns(flat):
                result = self._part_of_one_mask(flat, kept[0])
            elif self.has_residual:
                # kept_rest (x - V z) + V (kept z) with one product back instead of two
                rest = kept[:, -1:].to(flat.dtype)
                weights = kept[:, :rank].to(flat.dtype) - rest
                result = rest * flat + (flat @ self.basis * weights) @ self.basis.T
            else:
                result = (flat @ self.basis * kept.to(flat.dtype)) @ self.basis.T
            return result.view(x.shape)

    def _part_of_one_mask(self, flat: Tensor, kept: Tensor) -> Tensor:
        """The same for a mask that all images share: only the columns of the smaller side are multiplied."""
        columns = kept[: self.basis.shape[1]]
        keep_rest = bool(kept[-1]) if self.has_residual else int(columns.sum()) * 2 > len(columns)
        if keep_rest:
            dropped = self.basis[:, ~columns]
            return flat - (flat @ dropped) @ dropped.T
        chosen = self.basis[:, columns]
        return (flat @ chosen) @ chosen.T

    def _flat(self, x: Tensor) -> Tensor:
        if x.shape[1:].numel() != self.basis.shape[0]:
            raise ConfigError(
                f"images of shape {tuple(x.shape[1:])} do not fit components of (C, H, W) = {self.shape}; "
                "fit the components on images of the size that is trained on"
            )
        return x.flatten(1).to(self.basis.dtype)

    def _check(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape[1] != self.entries:
            raise ConfigError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; it must be bool of shape (B, {self.entries}), "
                "as draw_component_mask(projection.spectrum, ...) gives it"
            )


def _is_one_mask(mask: Tensor) -> bool:
    return mask.shape[0] == 1 or mask.stride(0) == 0  # an expanded mask repeats one row


def _may_pick_columns(x: Tensor) -> bool:
    # Picking columns by a mask makes a GPU wait for their number, and breaks a compiled graph.
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
