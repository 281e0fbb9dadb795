"""The masks of a training run: from settings to one mask per step. The draws themselves are in ``masking``."""

from __future__ import annotations

import torch
from torch import Tensor

from pmae.config import PretrainConfig
from pmae.masking import draw_component_mask, draw_patch_mask, expand_mask_units, pixel_coverage


class MaskSource:
    """Draws the mask of each step as ``config.masking`` says.

    Args:
        config: Resolved settings.
        spectrum: Explained-variance ratio (E,) of the entries that are masked, on the training device; None for MAE.
    """

    def __init__(self, config: PretrainConfig, spectrum: Tensor | None) -> None:
        self.config, self.masking, self.model = config, config.masking, config.model
        self.spectrum = spectrum

    def draw(
        self, batch: int, generator: torch.Generator, ratio_generator: torch.Generator, shard: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Masks of one step.

        Args:
            batch: Images in the whole batch over all workers: each draws for all and takes its ``shard``, so that
                the masks do not depend on the number of workers.
            generator: On the training device.
            ratio_generator: On the CPU, for a patch ratio drawn per batch (its size must be known without a wait).

        Returns:
            mask (b, E) or (b, N) bool, and the achieved ratio of each mask drawn, (batch,) or (1,) float64: the masked
            share of the variance, or of the pixels.
        """
        draws = 1 if self.masking.per == "batch" else batch
        if self.spectrum is not None:
            mask, achieved = self._components(self.spectrum, draws, generator)
        else:
            mask, achieved = self._patches(draws, generator, ratio_generator)
        if draws == 1 and batch > 1:
            mask = mask.expand(batch, -1)
        return mask[shard], achieved

    def _components(self, spectrum: Tensor, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert self.masking.strategy is not None and self.masking.ratio is not None
        ratio = self.masking.ratio_range or self.masking.ratio
        return draw_component_mask(spectrum, ratio, draws, generator, self.masking.strategy)

    def _patches(
        self, draws: int, generator: torch.Generator, ratio_generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        assert self.masking.strategy is not None and self.masking.ratio is not None
        assert self.model.image_size is not None and self.model.patch_stride is not None
        ratio = self.masking.ratio
        if self.masking.ratio_range is not None:
            low, high = self.masking.ratio_range
            ratio = low + (high - low) * float(torch.rand((), generator=ratio_generator))
        side = self.model.grid
        unit = self.masking.mask_unit or self.model.patch_size
        if unit != self.model.patch_size:
            units = self.model.image_size // unit
            mask = draw_patch_mask((units, units), ratio, draws, generator, self.masking.strategy)
            mask = expand_mask_units(mask, units, side)
        else:
            mask = draw_patch_mask((side, side), ratio, draws, generator, self.masking.strategy)
        if self.model.patch_stride == self.model.patch_size:
            return mask, mask.double().mean(1)
        hidden = pixel_coverage(mask, side, self.model.patch_size, self.model.patch_stride, self.model.image_size)
        return mask, hidden.flatten(1).double().mean(1)
