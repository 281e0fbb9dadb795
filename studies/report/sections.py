"""What the report says in words and small tables besides the verdict: comparisons, measures, the papers' numbers.

Measures are what a study found in addition to accuracies (the JSON in the column ``metrics``), as means per setting and
ratio; numbers inside a mapping get dotted names (``corruptions.jpeg``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from studies.formatting import in_points, interval, method_name, percent
from studies.literature.published import published_regrets
from studies.statistics.contrasts import Contrast, comparison_sentences
from studies.statistics.ratio_curves import Setting, setting_labels, sort_settings
from studies.storage.tables import flatten, read_mapping, rows_of

ACCURACIES = {"linear": "linear", "knn": "k-NN"}  # as in the columns val_linear, test_linear, ...


@dataclass(frozen=True)
class MeasureRow:
    """Means over the seeds of one setting and ratio."""

    setting: Setting
    label: str
    ratio: float  # masked share
    split: str  # of the accuracies: ``test`` of confirmed trials, ``val`` where a ratio was only explored
    seeds: int
    values: dict[str, float]  # linear and k-NN accuracy (fractions), then every measure


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
        found = read_mapping(row["metrics"])
        values = (flatten(found) if nested else found).items()
        numbers = {name: float(v) for name, v in values if type(v) in (int, float) and math.isfinite(v)}
        if numbers and row["status"] == "done" and row["ratio"] is not None:
            scores = {title: row[f"{split}_{name}"] for name, title in ACCURACIES.items()}
            known = {title: score for title, score in scores.items() if score is not None}
            groups[Setting.of(row), round(row["ratio"], 6)][split].append(known | numbers)
    order = sort_settings({setting for setting, _ in groups})
    labels = setting_labels(order)
    measured = []
    for setting, ratio in sorted(groups, key=lambda key: (order.index(key[0]), key[1])):
        by_split = groups[setting, ratio]
        split = "test" if "test" in by_split else "val"
        rows = by_split[split]
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        measured.append(MeasureRow(setting, labels[setting], ratio, split, len(rows), means))
    return measured


def measure_names(rows: list[MeasureRow]) -> list[str]:
    """Every name that occurs, accuracies first and what was nested last; a column that repeats another is left out."""
    columns: dict[tuple[float | None, ...], str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.values):
        columns.setdefault(tuple(row.values.get(name) for row in rows), name)
    return sorted(columns.values(), key=lambda name: "." in name)


def is_accuracy(name: str) -> bool:
    """Whether a measure is a share of images classified correctly."""
    return "linear" in name or "k-NN" in name or name.startswith("corruptions.")


def measure_table(rows: list[MeasureRow]) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """Headings and rows of everything measured, means over seeds; None where nothing was."""
    if not rows:
        return None
    names = measure_names(rows)
    titles = [name.replace("_", " ") + (" (%)" if is_accuracy(name) else "") for name in names]
    cells = []
    for row in rows:
        where = row.setting.dataset, row.label.replace(" ", "\u00a0"), percent(row.ratio), row.split, str(row.seeds)
        cells.append((*where, *(_measured(name, row.values.get(name)) for name in names)))
    return ["data set", "setting", "masked", "split", "seeds", *titles], cells


def _measured(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if is_accuracy(name) else f"{value:.4g}"


def published_rows() -> list[tuple[str, ...]]:
    """Per published curve: data set, method, default, best, difference, and the noise that would explain it."""
    rows: list[tuple[str, ...]] = []
    for found in published_regrets():
        ratios = percent(found.default_ratio), percent(found.best_ratio)
        rows.append(
            (found.dataset, method_name(found.method), *ratios, in_points(found.regret), in_points(found.noise))
        )
    return rows


def contrast_rows(found: Sequence[Contrast]) -> list[tuple[str, ...]]:
    """Rows of comparison, value, best ratio, accuracy, difference to the reference with its bounds, seeds."""
    rows: list[tuple[str, ...]] = []
    for c in found:
        difference = "reference" if c.difference is None else in_points(c.difference, True)
        measured = percent(c.ratio), f"{100 * c.accuracy:.1f}", difference, interval(c.low, c.high, True)
        rows.append((c.subject, c.value, *measured, str(c.seeds)))
    return rows


def own_answer(found: Sequence[Contrast], shapes: Sequence[str]) -> str:
    """What a study of another question than the default found: its comparisons, the curves' shapes."""
    return " ".join([*comparison_sentences(found), *shapes]) or "No answer yet."
