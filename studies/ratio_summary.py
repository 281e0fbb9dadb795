"""Fitted curves of a study's trials: optimum, plateau and inverted U per patch setting, PMAE beside MAE."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from studies.errors import StudyError
from studies.inverted_u import inverted_u
from studies.ratio_fit import fit_curve

KEYS = ("study", "dataset", "method", "strategy", "basis", "patch_size", "patch_stride", "mask_unit")


def describe_curves(trials: pa.Table, margin: float = 0.01) -> list[dict[str, Any]]:
    """One entry per patch setting, from validation accuracies of all finished trials, explored and confirmed.

    Each has the setting's columns, ``fit`` (``RatioFit`` as a dictionary), ``common`` (plateau width on the range of
    ratios that both methods tried on this data set and patch size, or None) and ``inverted_u`` (or None); where
    there are too few trials ``fit`` is None and ``reason`` says so.
    """
    groups: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    empty = [None] * trials.num_rows
    names = (*KEYS, "ratio", "val_linear", "status")
    columns = [trials[name].to_pylist() if name in trials.column_names else empty for name in names]
    for *key, ratio, accuracy, status in zip(*columns, strict=True):
        if status == "done" and ratio is not None and accuracy is not None and np.isfinite(accuracy):
            groups[tuple(key)].append((ratio, accuracy))
    ordered = sorted(groups.items(), key=lambda item: tuple(map(str, item[0])))
    return [_describe(key, points, groups, margin) for key, points in ordered]


def _describe(
    key: tuple[Any, ...],
    points: list[tuple[float, float]],
    groups: dict[tuple[Any, ...], list[tuple[float, float]]],
    margin: float,
) -> dict[str, Any]:
    ratios, accuracies = np.array(points).T
    entry: dict[str, Any] = {**dict(zip(KEYS, key, strict=True)), "fit": None, "common": None, "inverted_u": None}
    try:
        entry["fit"] = fit_curve(ratios, accuracies, margin=margin).to_dict()
    except StudyError as error:
        return {**entry, "reason": str(error)}
    shared = _shared_range(key, ratios, groups)
    if shared is not None:
        fit = fit_curve(ratios, accuracies, margin=margin, within=shared)
        entry["common"] = {"range": list(shared)} | {
            name: getattr(fit, name) for name in ("width", "width_low", "width_high", "share")
        }
    try:
        entry["inverted_u"] = vars(inverted_u(ratios, accuracies))
    except StudyError as error:
        entry["reason"] = str(error)
    return entry


def _shared_range(
    key: tuple[Any, ...], ratios: np.ndarray, groups: dict[tuple[Any, ...], list[tuple[float, float]]]
) -> tuple[float, float] | None:
    """The ratios that both methods tried on the same data set with the same patch size."""
    own = dict(zip(KEYS, key, strict=True))
    others = []
    for other, points in groups.items():
        its = dict(zip(KEYS, other, strict=True))
        alike = all(its[name] == own[name] for name in ("study", "dataset", "patch_size", "patch_stride"))
        if alike and its["method"] != own["method"]:
            others += [ratio for ratio, _ in points]
    if not others:
        return None
    low, high = float(max(ratios.min(), min(others))), float(min(ratios.max(), max(others)))
    return (low, high) if high - low > 0.05 else None
