"""Accuracy over the masking ratio, read off a table of trials: the points that figures, report and terminal show.

A *setting* is everything but the ratio and the seed that is compared. Regret, bounds and verdicts are left to
``verdict``; drawing to ``figures`` and ``report``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

METHOD_NAMES = {"pmae": "PMAE", "mae": "MAE"}
RATIO_MEANING = {"pmae": "masked share of the variance", "mae": "masked share of the patches"}
DEFAULT_MARGIN = 0.01  # of accuracy, where a study has no plan
DEFAULT_RATIOS = {"pmae": 0.20, "mae": 0.75}  # Bizeul et al. 2025; He et al. 2022


class Setting(NamedTuple):
    """What one curve holds fixed. Sides are in pixels; None where a method has no such setting."""

    dataset: str
    method: str
    strategy: str | None
    basis: str | None
    patch_size: int | None
    patch_stride: int | None
    mask_unit: int | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Setting:
        """The setting of a row of trials or of a verdict; a missing column counts as None."""
        dataset, method = str(row.get("dataset")), str(row.get("method"))
        return cls(dataset, method, *(row.get(name) for name in cls._fields[2:]))


@dataclass(frozen=True)
class RatioPoint:
    """Mean test accuracy (fraction) of the seeds at one ratio, and their standard deviation (None with one seed)."""

    ratio: float
    mean: float
    deviation: float | None
    seeds: int

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Two-sided 95 % Student interval of the mean; None with one seed."""
        if self.deviation is None:
            return None
        from scipy.special import stdtrit  # only here: tables in the terminal do without scipy

        half = float(stdtrit(self.seeds - 1, 0.975)) * self.deviation / math.sqrt(self.seeds)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class RatioCurve:
    """One setting's curve: what was confirmed on the test split, and what exploration saw on validation."""

    setting: Setting
    label: str
    confirmed: tuple[RatioPoint, ...]
    explored: tuple[tuple[float, float], ...]


def ratio_curves(trials: pa.Table) -> list[RatioCurve]:
    """Every setting's curve, ordered by data set, method (``pmae`` first), patch size and the rest.

    Args:
        trials: Rows with at least ``dataset, method, ratio, phase, status, val_linear, test_linear``; only rows that
            are done count, the others have no accuracy.
    """
    groups: dict[Setting, list[dict[str, Any]]] = defaultdict(list)
    for row in rows_of(trials, (*Setting._fields, "ratio", "phase", "status", "val_linear", "test_linear")):
        if row["status"] == "done" and is_number(row["ratio"]):
            groups[Setting.of(row)].append(row)
    ordered = in_order(groups)
    labels = setting_labels(ordered)
    curves = (
        RatioCurve(setting, labels[setting], _confirmed(groups[setting]), _explored(groups[setting]))
        for setting in ordered
    )
    return [curve for curve in curves if curve.confirmed or curve.explored]


def in_order(settings: Iterable[Setting]) -> list[Setting]:
    """By data set, method (``pmae`` first), patch size and the rest."""

    def key(setting: Setting) -> tuple[Any, ...]:
        numbers = tuple(value or 0 for value in setting[4:])
        return (setting.dataset, setting.method != "pmae", setting.method, *numbers, *map(str, setting[2:4]))

    return sorted(settings, key=key)


def setting_labels(settings: Iterable[Setting]) -> dict[Setting, str]:
    """Short names that tell the settings of one picture apart: ``PMAE, patch 2``; what never differs is left out."""
    listed = list(settings)
    return {s: ", ".join(_label_parts(s, [o for o in listed if o.method == s.method])) for s in listed}


def _label_parts(setting: Setting, peers: Sequence[Setting]) -> list[str]:
    parts = [METHOD_NAMES.get(setting.method, setting.method)]
    if setting.patch_size is not None:
        parts.append(f"patch {setting.patch_size}")
    if setting.patch_stride not in (None, setting.patch_size):
        parts.append(f"stride {setting.patch_stride}")
    if setting.mask_unit not in (None, setting.patch_size):
        parts.append(f"mask unit {setting.mask_unit}")
    if setting.basis not in (None, "pca") or len({p.basis for p in peers}) > 1:
        parts.append(f"basis {setting.basis}")
    if len({p.strategy for p in peers}) > 1:
        parts.append(f"strategy {setting.strategy}")
    return parts


def rows_of(table: pa.Table, columns: Iterable[str]) -> list[dict[str, Any]]:
    """The rows as dictionaries of ``columns`` only; a column that the table lacks is None throughout."""
    names = list(columns)
    there = [name for name in names if name in table.column_names]
    empty = dict.fromkeys(names)
    return [empty | row for row in table.select(there).to_pylist()]


def is_number(value: float | None) -> bool:
    """Whether there is a value, and a finite one."""
    return value is not None and math.isfinite(value)


def _confirmed(rows: list[dict[str, Any]]) -> tuple[RatioPoint, ...]:
    by_ratio: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row["phase"] == "confirm" and is_number(row["test_linear"]):
            by_ratio[round(row["ratio"], 6)].append(row["test_linear"])
    return tuple(
        RatioPoint(ratio, float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else None, len(v))
        for ratio, v in sorted(by_ratio.items())
    )


def _explored(rows: list[dict[str, Any]]) -> tuple[tuple[float, float], ...]:
    found = ((r["ratio"], r["val_linear"]) for r in rows if r["phase"] == "explore" and is_number(r["val_linear"]))
    return tuple(sorted(found))
