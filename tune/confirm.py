"""What the confirm phase runs: the leaders, the defaults and their rivals, each with the same seeds.

Judging what comes out is left to ``studies.verdict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pmae.config import PretrainConfig
from tune.space import Setting, Space

NEAR = 0.03  # ratios closer than this are one setting to any affordable number of seeds


@dataclass(frozen=True)
class ConfirmRule:
    """Which settings are confirmed.

    Attributes:
        leaders: Best explored ratios beside the defaults, per method at its best patch setting.
        rivals: Other defaults of PMAE that get the same treatment.
        every_patch_setting: Whether each method is confirmed at every patch setting (strategy, basis) that was
            explored instead of its best one.
    """

    leaders: int = 2
    rivals: tuple[float, ...] = (0.10, 0.15, 0.25, 0.30)
    every_patch_setting: bool = False


def settings_to_confirm(space: Space, rows: Iterable[Mapping[str, Any]], rule: ConfirmRule) -> list[Setting]:
    """The settings to confirm, those of one method together, the defaults first.

    ``rows`` are records; only explored trials that are done count. A method none of whose trials is done has none.
    """
    explored = _explored(rows)
    chosen: list[Setting] = []
    for method in space.methods:
        mine = {s: v for s, v in explored.items() if s.method == method}
        for arm in _arms(mine, rule.every_patch_setting):
            chosen += _of_arm(space, arm, {s: v for s, v in mine.items() if _same_arm(s, arm)}, rule)
    return list(dict.fromkeys(chosen))


def most_settings(space: Space, rule: ConfirmRule) -> int:
    """How many settings are confirmed at most, before the exploration has shown the leaders."""
    total = 0
    for method in space.methods:
        defaults = {space.default_of(method), *(rule.rivals if method == "pmae" else ())}
        ratios, arms = len(defaults) + rule.leaders, 1
        listed = space.ratios[method].listed
        if listed:
            ratios = min(ratios, len(defaults | set(listed)))
        if rule.every_patch_setting:
            arms = len(space.patches[method]) * len(space.strategies[method]) * len(space.bases_of(method))
        total += ratios * arms
    return total


def _explored(rows: Iterable[Mapping[str, Any]]) -> dict[Setting, float]:
    """Mean validation accuracy of each explored setting."""
    found: dict[Setting, list[float]] = {}
    for row in rows:
        if row["phase"] == "explore" and row["status"] == "done" and row["val_linear"] is not None:
            setting = Setting.of(config_of(row))
            found.setdefault(setting, []).append(row["val_linear"])
    return {s: sum(v) / len(v) for s, v in found.items()}


def _arms(explored: Mapping[Setting, float], every: bool) -> list[Setting]:
    """The best setting, or the best of each combination of patches, strategy and basis."""
    ranked = sorted(explored, key=lambda s: (-explored[s], str(s)))
    arms: list[Setting] = []
    for setting in ranked:
        if not any(_same_arm(setting, arm) for arm in arms):
            arms.append(setting)
    return arms if every else arms[:1]


def _same_arm(a: Setting, b: Setting) -> bool:
    return replace(a, ratio=None) == replace(b, ratio=None)


def _of_arm(space: Space, arm: Setting, explored: Mapping[Setting, float], rule: ConfirmRule) -> list[Setting]:
    if arm.ratio is None:  # the ratio is drawn: there is nothing to choose
        return [arm]
    defaults = [space.default_of(arm.method), *(rule.rivals if arm.method == "pmae" else ())]
    ratios = list(dict.fromkeys(defaults))
    ranked = sorted(explored, key=lambda s: (-explored[s], str(s)))
    leaders = [s.ratio for s in ranked if s.ratio is not None and _is_new(s.ratio, ratios)]
    for ratio in leaders:
        if len(ratios) < len(set(defaults)) + rule.leaders and _is_new(ratio, ratios):
            ratios.append(ratio)
    return [replace(arm, ratio=r) for r in ratios]


def _is_new(ratio: float, ratios: Sequence[float]) -> bool:
    """Whether the ratio is none of ``ratios`` to any affordable number of seeds: a leader beside a default is it."""
    return all(abs(ratio - other) > NEAR for other in ratios)


def config_of(row: Mapping[str, Any]) -> PretrainConfig:
    """The resolved configuration in a record."""
    import json

    config = row["config"]
    return PretrainConfig.from_dict(json.loads(config) if isinstance(config, str) else config)
