"""The accuracies that the papers print, as data to draw and to compare with a study's own.

Sources: the PMAE paper (Bizeul et al. 2025, arXiv 2502.06314: its figures over the ratio), the MAE
paper (He et al. 2022, arXiv 2111.06377, Figure 5) and Kong et al. 2023 (arXiv 2306.04898). Every number is one run,
read off a table or a plot, so none has an interval. They are drawn by ``figures`` and judged by ``published_regret``.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class CurvePoint(NamedTuple):
    """One point of a published curve of accuracy over the masking ratio.

    Attributes:
        source: The paper and where in it.
        dataset: ``cifar10``, ``tinyimagenet``, ``dermamnist``, ``bloodmnist``, ``pathmnist`` or ``imagenet1k``.
        image_size, patch_size: Sides in pixels.
        probe: Always ``linear`` here.
        method: ``pmae`` (loss on components, Eq. 3.1), ``pmae_pixel_loss`` (Eq. A.1) or ``mae``.
        ratio: Masked share of the variance (PMAE) or of the patches (MAE), a fraction.
        accuracy: Top-1 accuracy, a fraction.
    """

    source: str
    dataset: str
    image_size: int
    patch_size: int
    probe: str
    method: str
    ratio: float
    accuracy: float


@cache
def published_curves() -> tuple[CurvePoint, ...]:
    """Every published point of accuracy over the ratio, in the papers' order."""
    return tuple(CurvePoint(**row) for row in _read("ratio_curves.csv"))


def published_curve(dataset: str, method: str, probe: str = "linear") -> tuple[CurvePoint, ...]:
    """One paper's curve for one data set, by rising ratio; empty where no paper has one."""
    points = [p for p in published_curves() if (p.dataset, p.method, p.probe) == (dataset.lower(), method, probe)]
    first = [p for p in points if p.source == points[0].source]  # ImageNet has two papers: their settings differ
    return tuple(sorted(first, key=lambda p: p.ratio))


def _read(name: str) -> list[dict[str, Any]]:
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
    for row in rows:
        row.update({side: int(row[side]) for side in ("image_size", "patch_size")})
        for percent in [column for column in row if column.endswith("_percent")]:
            row[percent.removesuffix("_percent")] = round(float(row.pop(percent)) / 100, 6)
    return rows
