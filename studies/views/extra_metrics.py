"""What a study measured in addition to accuracies (the JSON in the column ``metrics``), as means per setting and ratio.

Numbers inside a mapping get dotted names (``corruptions.jpeg``).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from studies.statistics.ratio_curves import Setting, rows_of, setting_labels, sort_settings

ACCURACIES = {"linear": "linear", "knn": "k-NN"}  # as in the columns val_linear, test_linear, ...


@dataclass(frozen=True)
class MeasureRow:
    """Means over the seeds of one setting and ratio.

    Attributes:
        setting, label: The setting and its short name.
        ratio: Masked share.
        split: Where accuracies come from: ``test`` of confirmed trials, ``val`` where a ratio was only explored.
        seeds: Trials averaged.
        values: Linear and k-NN accuracy (fractions), then every measure.
    """

    setting: Setting
    label: str
    ratio: float
    split: str
    seeds: int
    values: dict[str, float] = field(default_factory=dict)


def measures(trials: pa.Table, *, nested: bool = True) -> list[MeasureRow]:
    """One row per setting and ratio, of confirmed trials where there are any; empty where nothing more was measured.

    Args:
        trials: Rows of a study; those that are not done, or have no numbers in ``metrics``, are left out.
        nested: Whether numbers inside nested mappings count too.
    """
    accuracies = [f"{split}_{name}" for split in ("val", "test") for name in ACCURACIES]
    groups: dict[tuple[Setting, float], dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of(trials, (*Setting._fields, "ratio", "phase", "status", "metrics", *accuracies)):
        split = "test" if row["phase"] == "confirm" else "val"
        numbers = dict(_numbers(_read(row["metrics"]), nested)) if row["status"] == "done" else {}
        if numbers and row["ratio"] is not None:
            scores = dict(_accuracies(row, split))
            groups[Setting.of(row), round(row["ratio"], 6)][split].append(scores | numbers)
    order = sort_settings({setting for setting, _ in groups})
    labels = setting_labels(order)
    found = []
    for setting, ratio in sorted(groups, key=lambda key: (order.index(key[0]), key[1])):
        by_split = groups[setting, ratio]
        split = "test" if "test" in by_split else "val"
        rows = by_split[split]
        found.append(MeasureRow(setting, labels[setting], ratio, split, len(rows), _means(rows)))
    return found


def measure_names(rows: list[MeasureRow]) -> list[str]:
    """Every name that occurs, accuracies first and what was nested last; a column that repeats another is left out."""
    columns: dict[tuple[float | None, ...], str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.values):
        columns.setdefault(tuple(row.values.get(name) for row in rows), name)
    return sorted(columns.values(), key=lambda name: "." in name)


def is_accuracy(name: str) -> bool:
    """Whether a measure is a share of images classified correctly."""
    return "linear" in name or "k-NN" in name or name.startswith("corruptions.")


def _read(text: str | None) -> Mapping[str, Any]:
    try:
        values = json.loads(text) if text else {}
    except ValueError:  # a table of another program
        return {}
    return values if isinstance(values, Mapping) else {}


def _numbers(values: Mapping[str, Any], nested: bool, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            if not nested:
                continue
            yield from _numbers(value, nested, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def _accuracies(row: Mapping[str, Any], split: str) -> Iterator[tuple[str, float]]:
    for name, title in ACCURACIES.items():
        if row.get(f"{split}_{name}") is not None:
            yield title, row[f"{split}_{name}"]


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
