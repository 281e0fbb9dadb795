"""Which components (PMAE) or which patches (MAE) are masked: batched draws on the device, nothing applied here.

Masks are boolean, True = masked. Every draw takes a ``torch.Generator`` and depends on nothing else that is random.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pmae.config import (
    COMPONENT_STRATEGIES,
    PATCH_STRATEGIES,
    PretrainConfig,
    check_choice,
    check_ratio,
    is_own,
    masked_count,
)
from pmae.errors import ConfigError

# Sides of a masked block: one at most about three times the other (Bao et al. 2022, BEiT).
BLOCK_ASPECT = 0.3
# A component with a smaller share of the variance counts as 0: masking it alone hides nothing.
NEGLIGIBLE_SHARE = 1e-6


def draw_component_mask(
    explained_variance_ratio: Tensor,
    ratio: float | tuple[float, float],
    batch_size: int,
    generator: torch.Generator,
    strategy: str = "fixed",
) -> tuple[Tensor, Tensor]:
    """Mask components that hold ``ratio`` of the variance (Bizeul et al. 2025, step 2).

    Components are ordered (``tvb``: lowest variance first; ``bvt``: highest first; otherwise a random permutation for
    each image) and a prefix is masked, never none and never all. The strategies differ in where the prefix ends:

    * ``expected``: at the component k where the cumulative share crosses the ratio, S_{k-1} <= ratio < S_k. It is
      included with the probability that makes the expected share equal to the ratio. Where the shorter prefix is
      empty, the smallest component alone takes its place; where the longer prefix is everything, everything but the
      smallest component does. The mean is therefore exact for p_min <= ratio <= 1 - p_min, where p_min is the share
      of the smallest component that holds a non-negligible share of the variance (above 1e-6).
    * ``fixed``, ``tvb``, ``bvt``: where the share is nearest to the ratio.
    * ``sampled``: as ``fixed``, with a ratio drawn for each image.
    * ``released``: one component before the nearest prefix, as in the paper's released code, so the share is below the
      ratio. Where that code masks nothing and the loss becomes NaN, the first component is masked here.

    Args:
        explained_variance_ratio: (E,) shares of the variance, at least 2, none negative; divided by their sum. Entries
            are validated on the CPU only: elsewhere reading them would stall the device.
        ratio: Masked share of the variance in (0, 1); for ``sampled`` a pair (low, high) from which each image
            draws its own, uniformly.
        batch_size: Number B of masks.
        generator: On the device of ``explained_variance_ratio``.
        strategy: ``expected``, ``fixed``, ``sampled``, ``tvb``, ``bvt`` or ``released``.

    Returns:
        mask (B, E) bool, True = masked, and the achieved ratio (B,) float64: the masked share of the variance.
    """
    check_choice("strategy", strategy, COMPONENT_STRATEGIES)
    low, high = _ratio_bounds(ratio, strategy)
    variances = _checked_spectrum(explained_variance_ratio)
    device, entries = variances.device, variances.numel()
    wanted = torch.full((batch_size, 1), low, dtype=torch.float64, device=device)
    if strategy == "sampled":
        uniform = torch.rand(batch_size, 1, dtype=torch.float64, device=device, generator=generator)
        wanted = low + (high - low) * uniform
    if strategy in ("tvb", "bvt"):
        order = variances.argsort(descending=strategy == "bvt", stable=True).expand(batch_size, -1)
    else:
        order = torch.rand(batch_size, entries, device=device, generator=generator).argsort(dim=1, stable=True)
    shares = variances[order].cumsum(1) / variances.sum()
    if strategy == "expected":
        uniform = torch.rand(batch_size, 1, dtype=torch.float64, device=device, generator=generator)
        return _expected_prefix(variances / variances.sum(), order, shares, wanted, uniform)
    if strategy == "released":
        last = ((shares - wanted).abs().argmin(1, keepdim=True) - 1).clamp_min(0)
    else:
        # The last prefix is everything, which would leave nothing visible.
        last = (shares[:, :-1] - wanted).abs().argmin(1, keepdim=True)
    masked = torch.arange(entries, device=device) <= last
    mask = torch.zeros_like(masked).scatter_(1, order, masked)
    return mask, shares.gather(1, last).squeeze(1)


def _expected_prefix(
    p: Tensor, order: Tensor, shares: Tensor, wanted: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """The ``expected`` strategy: a random choice between two masks whose shares enclose the ratio ``wanted`` (B, 1)."""
    entries = p.numel()
    # At least two components are candidates for the smallest one, also where all variance is in one component.
    candidates = p.masked_fill(p < p.topk(2).values[1].clamp(max=NEGLIGIBLE_SHARE), math.inf)
    least = candidates.amin()  # not p[argmin]: indexing with a tensor would wait for the device
    smallest = candidates.argmin()
    alone = (torch.arange(entries, device=p.device) == smallest).expand_as(order)
    length = (shares <= wanted).sum(1, keepdim=True).clamp_max(entries - 1)
    position = order.argsort(dim=1)
    low_share = torch.where(length > 0, shares.gather(1, (length - 1).clamp_min(0)), 0.0)
    high_share = shares.gather(1, length)
    is_empty, is_everything = low_share < NEGLIGIBLE_SHARE, high_share > 1 - NEGLIGIBLE_SHARE
    low_mask = torch.where(is_empty, alone, position < length)
    high_mask = torch.where(is_everything, ~alone, position <= length)
    low_share = torch.where(is_empty, least, low_share)
    high_share = torch.where(is_everything, 1 - least, high_share)
    # Where both shares are equal, the prefix is preferred to its stand-in, so that no component is favored.
    gap = high_share - low_share
    tie = torch.where(is_empty, 1.0, 0.0)
    chance = torch.where(gap > 0, ((wanted - low_share) / gap).clamp(0, 1), tie)
    include = uniform < chance
    return torch.where(include, high_mask, low_mask), torch.where(include, high_share, low_share).squeeze(1)


def draw_patch_mask(
    grid: tuple[int, int], ratio: float, batch_size: int, generator: torch.Generator, strategy: str = "random"
) -> Tensor:
    """Mask the same number of patches in each image: N - int(N (1 - ratio)) (He et al. 2022), never none or all.

    Args:
        grid: Rows and columns of patches, N in all.
        ratio: Masked share of the patches in (0, 1).
        batch_size: Number B of masks.
        generator: The masks are drawn on its device.
        strategy: ``random``: any patches; ``block``: one rectangle at a random place, whose top or bottom row may be
            incomplete; ``grid``: what stays visible is on a regular grid, shifted at random.

    Returns:
        mask (B, N) bool, patches in row-major order.
    """
    check_choice("strategy", strategy, PATCH_STRATEGIES)
    check_ratio(ratio)
    rows, columns = grid
    if rows * columns < 2:
        raise ConfigError(f"grid is {grid}; masking needs at least 2 patches, so take a smaller patch_size")
    masked = masked_count(rows * columns, ratio)
    if strategy == "block":
        return _block_mask(rows, columns, masked, batch_size, generator)
    if strategy == "grid":
        keys = _grid_keys(rows, columns, batch_size, generator)
    else:
        keys = torch.rand(batch_size, rows * columns, device=generator.device, generator=generator)
    order = keys.argsort(dim=1, stable=True)
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, order[:, :masked], True)


def expand_mask_units(mask_units: Tensor, units_per_side: int, patches_per_side: int) -> Tensor:
    """Give each patch the mask of the unit that contains it (Kong et al. 2023: unit and patch size decoupled).

    (B, U·U) bool over the units of a square image becomes (B, P·P); U divides P, the patches per side.
    """
    if patches_per_side % units_per_side or mask_units.shape[-1] != units_per_side**2:
        raise ConfigError(
            f"{mask_units.shape[-1]} mask units, {units_per_side} a side, do not tile {patches_per_side} patches a "
            "side; mask_unit must be a multiple of patch_size that divides the image"
        )
    times = patches_per_side // units_per_side
    square = mask_units.view(-1, units_per_side, units_per_side)
    return square.repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1)


def pixel_coverage(mask: Tensor, grid: int, patch_size: int, patch_stride: int, image_size: int) -> Tensor:
    """Pixels (B, image_size, image_size) that no visible patch shows, of masks (B, N) over patches, ``grid`` a side.

    Where patches overlap only these may be scored; an image can have none.
    """
    if grid**2 != mask.shape[-1] or (grid - 1) * patch_stride + patch_size != image_size:
        raise ConfigError(
            f"{mask.shape[-1]} patches of {patch_size} px, {grid} x {grid} with stride {patch_stride}, do not cover an "
            f"image of {image_size} px"
        )
    visible = (~mask).view(-1, 1, grid, grid).float()
    shown = F.conv_transpose2d(visible, visible.new_ones(1, 1, patch_size, patch_size), stride=patch_stride)
    return shown.squeeze(1) < 0.5


def _ratio_bounds(ratio: float | tuple[float, float], strategy: str) -> tuple[float, float]:
    if strategy != "sampled" and not isinstance(ratio, (tuple, list)):
        check_ratio(ratio)
        return ratio, ratio
    if strategy != "sampled" or not isinstance(ratio, (tuple, list)) or len(ratio) != 2:
        raise ConfigError(
            f"ratio is {ratio!r} with strategy {strategy!r}; 'sampled' takes a pair (low, high), for example "
            "(0.1, 0.9), the others take one fraction"
        )
    low, high = ratio
    check_ratio(low, "the ratio's low end")
    check_ratio(high, "the ratio's high end")
    if low > high:
        raise ConfigError(f"ratio is {ratio!r}; its low end must not be above its high end")
    return low, high


def _checked_spectrum(variances: Tensor) -> Tensor:
    variances = torch.as_tensor(variances).to(torch.float64)
    if variances.ndim != 1 or variances.numel() < 2:
        raise ConfigError(
            f"explained_variance_ratio has shape {tuple(variances.shape)}; it must be one row of at least 2 components"
        )
    if variances.device.type == "cpu" and not torch.compiler.is_compiling():
        if not bool(torch.isfinite(variances).all()) or bool((variances < 0).any()):
            raise ConfigError("explained_variance_ratio holds negative or non-finite entries; fit the components again")
        if not bool(variances.sum() > 0):
            raise ConfigError("explained_variance_ratio is all zero: the images do not vary, so nothing can be masked")
    return variances


def _block_mask(rows: int, columns: int, masked: int, batch_size: int, generator: torch.Generator) -> Tensor:
    table, counts = _block_table(rows, columns, generator.device)
    shapes = counts[masked - 1]
    uniform = torch.rand(4, batch_size, 1, device=generator.device, generator=generator)
    height, width = table[masked - 1, (uniform[0] * shapes).long().clamp_max(shapes - 1)].unbind(-1)
    top, left = (uniform[1] * (rows - height + 1)).long(), (uniform[2] * (columns - width + 1)).long()
    cell = torch.arange(rows * columns, device=generator.device)
    row, column = cell // columns - top, cell % columns - left
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row = torch.where(uniform[3] < 0.5, row, height - 1 - row)  # the incomplete row is the bottom or the top one
    return inside & (row * width + column < masked)


@functools.lru_cache(maxsize=16)
def _block_table(rows: int, columns: int, device: torch.device) -> tuple[Tensor, tuple[int, ...]]:
    """Block shapes (N - 1, S, 2) of every number of masked patches, on the device, and how many each has."""
    shapes = [_block_shapes(rows, columns, masked) for masked in range(1, rows * columns)]
    counts = tuple(len(s) for s in shapes)
    most = max(counts)
    return torch.tensor([s + [(0, 0)] * (most - len(s)) for s in shapes], device=device), counts


def _block_shapes(rows: int, columns: int, masked: int) -> list[tuple[int, int]]:
    """Heights and widths of the rectangles that ``masked`` patches fill except for a part of one row."""
    shapes = [(height, -(-masked // height)) for height in range(1, rows + 1)]
    shapes = [(h, w) for h, w in shapes if w <= columns and -(-masked // w) == h]
    return [(h, w) for h, w in shapes if min(h, w) >= BLOCK_ASPECT * max(h, w)] or shapes


def _grid_keys(rows: int, columns: int, batch_size: int, generator: torch.Generator) -> Tensor:
    order = _dither_order(max(rows, columns), generator.device)
    period = len(order)
    shift = torch.randint(period, (2, batch_size, 1), device=generator.device, generator=generator)
    cell = torch.arange(rows * columns, device=generator.device)
    return -order[(cell // columns + shift[0]) % period, (cell % columns + shift[1]) % period]


@functools.lru_cache(maxsize=64)
def _dither_order(side: int, device: torch.device) -> Tensor:
    """(S, S) ranks of Bayer's ordered dithering (1973): the first n ranks are spread as evenly as n cells can be."""
    order = torch.zeros(1, 1, dtype=torch.long)
    while len(order) < side:
        order = torch.cat([torch.cat([4 * order, 4 * order + 2], 1), torch.cat([4 * order + 3, 4 * order + 1], 1)])
    return order.to(device)


def repeat_masks(mask: Tensor, images: int) -> Tensor:
    """Masks of groups of ceil(images / G) consecutive images, the last one maybe smaller: (G, E) to (images, E)."""
    return mask if len(mask) == images else mask.repeat_interleave(-(-images // len(mask)), 0)[:images]


class DrawMask(Protocol):
    """A mask strategy of your own: a function or an object that is called once per step.

    Args:
        entries: PMAE: shares of the variance (E,), on the training device; MAE: (rows, columns) of the mask units.
        ratio: ``masking.ratio``, or the one that was drawn for this batch from ``masking.ratio_range`` (MAE).
        batch_size: Number B of masks.
        generator: On the training device; draw from nothing else, else a seed no longer fixes the training.

    Returns:
        mask (B, E) or (B, rows * columns), bool, True = masked: some but not all of each row (PMAE), or
        ``masked_count(rows * columns, ratio)`` of each row, as all images of a batch show equally many patches (MAE).
    """

    def __call__(self, entries: Any, ratio: float, batch_size: int, generator: torch.Generator, /) -> Tensor: ...


class MaskDraw(NamedTuple):
    """The masks of one step, and what they mask.

    ``mask`` is bool, True = masked: patches (b, N) of this worker's b images; components (b, E), or fewer rows, see
    :func:`repeat_masks`. ``achieved`` (draws,) is the masked share of the variance or of the pixels,
    ``visible_tokens`` the visible patches per mask, None for components.
    """

    mask: Tensor
    achieved: Tensor
    visible_tokens: int | None


class MaskSampler:
    """Draws the masks of each step as ``config.masking`` specifies. No built-in draw waits for the device.

    ``spectrum`` (E,) are the shares of the variance of what is masked, on the training device; None for MAE, whose
    lookup tables are copied to ``device`` now.
    """

    def __init__(
        self,
        config: PretrainConfig,
        spectrum: Tensor | None,
        device: torch.device | None = None,
        draw_mask: DrawMask | None = None,
    ) -> None:
        self.config, self.masking, self.model = config, config.masking.resolve(), config.model
        self.spectrum, self.own = spectrum, draw_mask
        if is_own(self.masking.strategy) != (draw_mask is not None):
            raise ConfigError(
                f"strategy is {self.masking.strategy!r} and draw_mask is {draw_mask}; a strategy of your own needs "
                "a name (masking.strategy 'own:NAME') and its function: pretrain(..., draw_mask=function)"
            )
        if spectrum is None and device is not None:
            if self.masking.strategy == "block":
                _block_table(self._units, self._units, device)
            elif self.masking.strategy == "grid":
                _dither_order(self._units, device)

    def draw(
        self, batch: int, generator: torch.Generator, ratio_generator: torch.Generator, shard: slice = slice(None)
    ) -> MaskDraw:
        """Masks of one step: every worker draws for the whole ``batch`` and takes its ``shard``.

        ``generator`` is on the training device, ``ratio_generator`` on the CPU, where a patch ratio must be known.
        """
        sharing = {"image": 1, "group": self.masking.group_size or batch, "batch": batch}[self.masking.per]
        draws = -(-batch // sharing)
        if self.spectrum is not None:
            visible = None
            mask, achieved = self._components(self.spectrum, draws, generator)
        else:
            ratio = self._patch_ratio(ratio_generator)
            visible = self.visible_tokens(ratio)
            mask, achieved = self._patches(ratio, draws, generator)
        if self.spectrum is None or (draws > 1 and range(batch)[shard] != range(batch)):
            mask = repeat_masks(mask, batch)[shard]  # a worker's part may begin within a group
        return MaskDraw(mask, achieved, visible)

    def visible_tokens(self, ratio: float) -> int:
        """Patches that a masking ratio leaves visible in each image, from the settings alone (MAE)."""
        units = self._units**2
        return (units - masked_count(units, ratio)) * (self.model.grid // self._units) ** 2

    def _components(self, spectrum: Tensor, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert self.masking.strategy is not None and self.masking.ratio is not None
        if self.own is not None:
            mask = self._own_mask(spectrum, spectrum.numel(), self.masking.ratio, draws, generator)
            return mask, (mask * spectrum).sum(1) / spectrum.sum()
        ratio = self.masking.ratio_range or self.masking.ratio
        return draw_component_mask(spectrum, ratio, draws, generator, self.masking.strategy)

    def _patch_ratio(self, ratio_generator: torch.Generator) -> float:
        assert self.masking.ratio is not None
        if self.masking.ratio_range is None:
            return self.masking.ratio
        low, high = self.masking.ratio_range
        return low + (high - low) * float(torch.rand((), generator=ratio_generator))

    def _patches(self, ratio: float, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert self.masking.strategy is not None and self.model.image_size is not None
        side, units = self.model.grid, self._units
        if self.own is not None:
            mask = self._own_mask((units, units), units**2, ratio, draws, generator)
        else:
            mask = draw_patch_mask((units, units), ratio, draws, generator, self.masking.strategy)
        if units != side:
            mask = expand_mask_units(mask, units, side)
        if self.model.stride == self.model.patch_size:
            return mask, mask.double().mean(1)
        hidden = pixel_coverage(mask, side, self.model.patch_size, self.model.stride, self.model.image_size)
        return mask, hidden.flatten(1).double().mean(1)

    def _own_mask(self, entries: Any, count: int, ratio: float, draws: int, generator: torch.Generator) -> Tensor:
        assert self.own is not None
        mask = self.own(entries, ratio, draws, generator)
        least, most = (1, count - 1) if self.spectrum is not None else (masked_count(count, ratio),) * 2
        is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (draws, count)
        masked = mask.sum(1) if is_mask else torch.zeros(1)
        if not bool(((masked >= least) & (masked <= most)).all()):
            drew = f"{masked.min()} to {masked.max()} masked entries in a row" if is_mask else repr(mask)
            raise ConfigError(
                f"strategy {self.masking.strategy!r} drew {drew}; it must draw a bool tensor of shape {(draws, count)} "
                f"with {least} to {most} masked in each row"
            )
        return mask

    @property
    def _units(self) -> int:
        """Mask units per side: patches, or squares of them."""
        unit = self.masking.mask_unit or self.model.patch_size
        if unit == self.model.patch_size:
            return self.model.grid
        assert self.model.image_size is not None
        return self.model.image_size // unit
