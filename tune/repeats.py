"""Settings that differ in name only: MAE's ratios that mask the same number of patches or mask units.

Of 4 units a ratio of 0.1 masks one, as 0.25 does: training both would show one result twice under two ratios.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pmae.config import masked_count, patches_per_side

if TYPE_CHECKING:
    from tune.space import Setting


def distinct(settings: Sequence[Setting], image_size: int, always: Collection[Setting] = ()) -> list[Setting]:
    """``settings`` without repetitions; of those that mask alike the one of ``always`` or the nearest to its ratio.

    It takes the place of the first, so that the order of what is masked is kept.
    """
    kept: dict[tuple[Setting, int | None], Setting] = {}
    for setting in settings:
        masked, units = _masked(setting, image_size)
        key = (setting, None) if masked is None else (replace(setting, ratio=None), masked)
        before = kept.setdefault(key, setting)
        if masked is not None and before not in always:
            kept[key] = min(before, setting, key=lambda s: abs((s.ratio or 0) - masked / units))
    return list(kept.values())


def _masked(setting: Setting, image_size: int) -> tuple[int | None, int]:
    """Units masked, and units there are; None where a ratio can be met exactly enough (PMAE) or is drawn."""
    if setting.method != "mae" or setting.ratio is None:
        return None, 0
    patches = setting.patches
    if patches.mask_unit is None:
        units = patches_per_side(image_size, patches.patch_size, patches.patch_stride) ** 2
    else:
        units = (image_size // patches.mask_unit) ** 2
    return masked_count(units, setting.ratio), units
